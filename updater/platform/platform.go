// Package platform reads in which zone of which cloud this machine is.
package platform

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Facts are what a platform says of the machine. An empty string is unknown.
type Facts struct {
	Provider     string // that was asked
	Zone         string // availability zone
	Region       string
	InstanceID   string // i-0123456789abcdef0, or a UUID
	InstanceType string // type, size or flavour
}

// A Source says where to read. The zero Source reads nothing: its facts are all
// unknown, which is no error.
type Source struct {
	Provider string // "afterburn", "openstack", "ec2", or "" for none

	// For afterburn: its environment file, and the variables in it. A fact whose
	// variable is "" stays unknown.
	File                                     string
	ZoneKey, RegionKey, InstanceKey, TypeKey string

	Endpoint    string // URL of the metadata service; "": DefaultEndpoint
	ConfigDrive string // where OpenStack's is mounted; "": DefaultConfigDrive

	Timeout time.Duration // of one request; 0: 5 s
	Backoff time.Duration // before the second of four attempts, then doubled; 0: 1 s
}

// Where metadata is unless the operator says otherwise.
const (
	DefaultEndpoint    = "http://169.254.169.254"
	DefaultConfigDrive = "/media/configdrive"
)

// Bounds of one Read. A metadata service is a hop away and answers in
// milliseconds, except while the machine's first seconds go by.
const (
	defaultTimeout = 5 * time.Second
	defaultBackoff = time.Second
	attempts       = 4 // with the default pauses: seven seconds, beside the requests' own time
	maxFact        = 128
)

// Read reads the facts, and returns those that it has with an error too. It
// asks a service several times, with pauses, and gives up within a minute (four
// attempts of two requests, with Timeout and Backoff at their defaults, take 47 s
// at the very most); so it is called beside the daemon's start, not in it, and
// again later when it was in vain. An error names what was asked. A missing
// environment file matches fs.ErrNotExist.
func (s Source) Read(ctx context.Context) (Facts, error) {
	var f Facts
	var err error
	switch s.Provider {
	case "":
		return Facts{}, nil
	case "afterburn":
		f, err = s.afterburn()
	case "openstack":
		f, err = s.openStack(ctx)
	case "ec2":
		f, err = s.ec2(ctx)
	default:
		return Facts{}, fmt.Errorf("read platform: %q is no provider: afterburn, openstack and ec2 are", s.Provider)
	}
	f.Provider = s.Provider
	err = errors.Join(err, f.check())
	if err != nil {
		return f, fmt.Errorf("read platform %s: %w", s.Provider, err)
	}
	return f, nil
}

// check makes unknown what cannot be a fact: it goes into records that all
// machines of a cluster read, and into tables on terminals.
func (f *Facts) check() error {
	var errs []error
	for _, fact := range []struct {
		name  string
		value *string
	}{{"zone", &f.Zone}, {"region", &f.Region}, {"instance-id", &f.InstanceID}, {"instance-type", &f.InstanceType}} {
		if why := odd(*fact.value); why != "" {
			errs = append(errs, fmt.Errorf("%s %.40q %s", fact.name, *fact.value, why))
			*fact.value = ""
		}
	}
	return errors.Join(errs...)
}

func odd(s string) string {
	switch {
	case len(s) > maxFact:
		return fmt.Sprintf("has %d bytes: %d are the most", len(s), maxFact)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == '<' || r == '>' }):
		return "holds characters that no fact has"
	case strings.TrimSpace(s) != s:
		return "begins or ends with a blank"
	}
	return ""
}

// errNoZone says what every provider's reader must not pass over.
var errNoZone = errors.New("it says no availability zone, so the zone of this machine stays unknown")
