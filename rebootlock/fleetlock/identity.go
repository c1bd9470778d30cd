package fleetlock

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net/http"
	"slices"

	"github.com/drydock-os/drydock/rebootlock"
)

// zincati is the application whose id names a machine in FleetLock
// (coreos/zincati, src/identity; PROTOCOL.md, section 5).
var zincati = [16]byte{0xde, 0x35, 0x10, 0x6b, 0x6e, 0xc2, 0x46, 0x88, 0xb6, 0x3a, 0xfd, 0xda, 0xa1, 0x56, 0x67, 0x9b}

// AppID returns the id under which zincati names the machine with a machine-id:
// what sd_id128_get_machine_app_specific(3) makes of it, 32 lower-case
// hexadecimal digits.
func AppID(machineID string) (string, error) {
	if err := rebootlock.CheckMachineID(machineID); err != nil {
		return "", err
	}
	key, err := hex.DecodeString(machineID)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(zincati[:])
	id := mac.Sum(nil)[:16]
	id[6] = id[6]&0x0f | 0x40 // a UUID of version 4
	id[8] = id[8]&0x3f | 0x80 // and of the usual variant
	return hex.EncodeToString(id), nil
}

// sameMachine reports whether two names are those of one machine: equal, or one
// the id that zincati makes of the other.
func sameMachine(a, b string) bool {
	if a == b {
		return a != ""
	}
	of := func(machineID, app string) bool {
		id, err := AppID(machineID)
		return err == nil && id == app
	}
	return of(a, b) || of(b, a)
}

// identify refuses a client whose certificate names another machine, and one
// without where the server asks for it.
func (s *Server) identify(conn *tls.ConnectionState, id string) *Error {
	if conn == nil || len(conn.VerifiedChains) == 0 {
		if s.Identity {
			return refuse(http.StatusForbidden, kindForbidden, "this server asks for a client certificate that names the machine, and there is none")
		}
		return nil
	}
	leaf := conn.VerifiedChains[0][0]
	names := append([]string{leaf.Subject.CommonName}, leaf.DNSNames...)
	if !slices.ContainsFunc(names, func(name string) bool { return sameMachine(name, id) }) {
		return refuse(http.StatusForbidden, kindForbidden, "the client certificate is that of %.100q, the request says %.40q", names, id)
	}
	return nil
}
