package rebootlock

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Keys are the keys of one cluster, below /drydock/<cluster>/ (RECORDS.md,
// section 1). Two clusters in one etcd share none.
type Keys struct{ Cluster string }

func (k Keys) root() string { return "/drydock/" + url.PathEscape(k.Cluster) + "/" }

// What the coordinator watches lies below lock/: everything else is read by
// people, or seldom.

// ClusterRecord is the key of the cluster's own record.
func (k Keys) ClusterRecord() string { return k.root() + "lock/cluster" }

// Rules is the key of a group's rules.
func (k Keys) Rules(group string) string { return k.root() + "lock/groups/" + url.PathEscape(group) }

// Failures is the key of a group's failed reboots.
func (k Keys) Failures(group string) string {
	return k.root() + "lock/failures/" + url.PathEscape(group)
}

// Ledger is the key of the coordinator's book of a group.
func (k Keys) Ledger(group string) string { return k.root() + "lock/ledgers/" + url.PathEscape(group) }

// Ticket is the key of a machine's place in a queue.
func (k Keys) Ticket(group, machine string) string {
	return k.root() + "lock/tickets/" + url.PathEscape(group) + "/" + url.PathEscape(machine)
}

// Permit is the key of a machine's permit.
func (k Keys) Permit(group, machine string) string {
	return k.root() + "lock/permits/" + url.PathEscape(group) + "/" + url.PathEscape(machine)
}

// Member is the key of a machine that the cluster knows.
func (k Keys) Member(machine string) string {
	return k.root() + "lock/members/" + url.PathEscape(machine)
}

// Presence is the key of one boot of a machine that is there now.
func (k Keys) Presence(machine, boot string) string {
	return k.root() + "lock/present/" + url.PathEscape(machine) + "/" + url.PathEscape(boot)
}

// Stamp is the key under which the coordinator says that it is at work.
func (k Keys) Stamp() string { return k.root() + "stamp" }

// Status is the key of what a machine last said of itself.
func (k Keys) Status(machine string) string { return k.root() + "status/" + url.PathEscape(machine) }

// Election is the prefix under which coordinators stand for election.
func (k Keys) Election() string { return k.root() + "coordinator" }

// Entry is the key of a journal entry.
func (k Keys) Entry(id string) string { return k.root() + "journal/" + id }

// OwnEntry is the key of a journal entry that a machine writes: below a prefix
// of its own, so that it needs no right to change what others wrote.
func (k Keys) OwnEntry(machine, id string) string {
	return k.Entry(url.PathEscape(machine) + "/" + id)
}

// The kinds of records, as the part of the key after the cluster names them.
const (
	kindCluster  = "lock/cluster"
	kindRules    = "lock/groups"
	kindFailures = "lock/failures"
	kindLedger   = "lock/ledgers"
	kindTicket   = "lock/tickets"
	kindPermit   = "lock/permits"
	kindMember   = "lock/members"
	kindPresence = "lock/present"
	kindStatus   = "status"
	kindEntry    = "journal"
	kindStamp    = "stamp"
)

// all is the range of a kind; of one group or machine, if names are given.
func (k Keys) all(kind string, names ...string) Range {
	key := k.root() + kind
	for _, n := range names {
		key += "/" + url.PathEscape(n)
	}
	return Range{Key: key + "/", Prefix: true}
}

// parse takes a key apart: its kind, and the names in it.
func (k Keys) parse(key string) (kind string, names []string, ok bool) {
	rest, ok := strings.CutPrefix(key, k.root())
	if !ok {
		return "", nil, false
	}
	parts := strings.Split(rest, "/")
	head := 1
	if parts[0] == "lock" {
		head = 2
	}
	if len(parts) < head {
		return "", nil, false
	}
	kind = strings.Join(parts[:head], "/")
	for _, p := range parts[head:] {
		name, err := url.PathUnescape(p)
		if err != nil {
			return "", nil, false
		}
		names = append(names, name)
	}
	return kind, names, true
}

// maxName bounds the name of a cluster, group or machine, in bytes: keys stay
// short, and tables readable.
const maxName = 128

// CheckName says why s cannot name a cluster, a group or a machine of what
// kind: any printable text of at most 128 bytes can, without blanks at its ends.
func CheckName(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s has no name", what)
	case len(s) > maxName:
		return fmt.Errorf("%s %.20q… has a name of %d bytes; %d are the most", what, s, len(s), maxName)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %q: the name is not UTF-8", what, s)
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("%s %q: the name begins or ends with a blank", what, s)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%s %q: the name holds a character that cannot be printed", what, s)
	}
	return nil
}

// CheckMachineID says why s is no machine-id: 32 lower-case hexadecimal digits,
// not all zero (machine-id(5)).
func CheckMachineID(s string) error {
	if len(s) != 32 || strings.Trim(s, "0123456789abcdef") != "" || strings.Trim(s, "0") == "" {
		return fmt.Errorf("%q is no machine-id: 32 lower-case hexadecimal digits, not all zero (systemd-machine-id-setup makes one)", s)
	}
	return nil
}
