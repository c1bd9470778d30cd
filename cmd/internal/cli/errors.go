package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/drydock-os/drydock/partition"
	"github.com/drydock-os/drydock/rebootlock"
	"github.com/drydock-os/drydock/updater"
	"github.com/drydock-os/drydock/updater/bus"
	"github.com/drydock-os/drydock/updater/payload"
)

// usageError is a command line that could be parsed and makes no sense.
type usageError struct{ text string }

// Error implements error.
func (e usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

func isUsage(err error) bool {
	var u usageError
	return errors.As(err, &u)
}

// advised is an error with what it means for the machine, or what to do next.
type advised struct {
	err  error
	text string
}

// Error is the error's own text; the advice is for who prints it.
func (a advised) Error() string { return a.err.Error() }

// Unwrap returns the error.
func (a advised) Unwrap() error { return a.err }

// advice says what to do about errors that an operator meets. The first that
// matches counts.
var advice = []struct {
	err  error
	text string
}{
	{bus.ErrNotAuthorized, "try again as root, or have polkit grant you the action"},
	{rebootlock.ErrRefused, "name a user with --user and --password-file, or a certificate with --cert and --key, whose role in etcd allows it (etcd-roles.md)"},
	{rebootlock.ErrNewer, "use the drydock of that version"},
	{bus.ErrNoCluster, "see [cluster] in its policy file, or ask the cluster's etcd with --endpoints"},
	{updater.ErrBusy, "follow it with drydock status --watch"},
	{payload.ErrNoKey, "give a public key in PEM with --key"},
	{payload.ErrUnsigned, "nobody vouches for it: do not use it"},
	{payload.ErrSignature, "do not use it, or give the public key of whoever made it with --key"},
	{payload.ErrExpired, "get a newer payload, and check this machine's clock"},
	{payload.ErrSourceMismatch, "give the old image with --source, or take a full payload"},
	{payload.ErrNoTarget, "say where it goes with --target NAME=FILE, --kernel or --pcr-policy"},
	{payload.ErrTargetTooSmall, "give a larger target"},
	{payload.ErrBadMagic, "is this the right file?"},
	{payload.ErrVersion, "it is made for another updater"},
	{payload.ErrPayloadHash, "get it again"},
	{payload.ErrPayloadSize, "get it again"},
	{payload.ErrOperationHash, "it is damaged: get it again"},
	{payload.ErrManifest, "it is damaged: get it again"},
	{partition.ErrNoGPT, "no loader can boot from this disk: is it the right one?"},
	{partition.ErrInUse, "unmount it first"},
	{syscall.EBUSY, "it is mounted or otherwise in use: unmount it first"},
	{syscall.ENOSPC, "make room and try again"},
	{fs.ErrPermission, "try again as root"},
	{context.Canceled, "interrupted"},
}

// withAdvice is err with what it means and what to do next.
func withAdvice(err error) string {
	text := err.Error()
	var a advised
	if errors.As(err, &a) {
		text += "; " + a.text
	}
	for _, known := range advice {
		if errors.Is(err, known.err) {
			return text + "; " + known.text
		}
	}
	return text
}

// oneLine joins lines and drops what would steer a terminal: some of the text
// comes from files and servers that nobody vouches for.
func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = clean(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// clean drops control characters, and makes one line of several.
func clean(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' {
			return ' '
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, text))
}
