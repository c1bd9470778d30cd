package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// defaultHookPath and defaultHookTimeout are what Hook's zero value runs: the
// path upstream runs, and time enough to fetch some extensions.
const (
	defaultHookPath    = "postinst"
	defaultHookTimeout = 10 * time.Minute
)

// Hook runs the post-install program that a release carries. Upstream's sets
// the boot flags itself, fetches extensions and touches /run/reboot-required.
type Hook struct {
	Path    string            // inside the slot; "postinst" if empty
	Timeout time.Duration     // 10 minutes if zero
	Output  func(line string) // hears each line it writes; may be nil
	Environ []string          // where variables are taken from; os.Environ() if nil
	Dir     string            // where mount points are made; the temporary directory if empty

	// Required makes a release without the hook an error, ErrNoHook.
	Required bool

	// Running is the same hook of the running system, run where the slot is a
	// btrfs whose twin (same UUID) is mounted, which no kernel mounts again,
	// as upstream does it. Empty: that is an error.
	Running string
}

// ErrNoHook says that a release has no hook and one is required.
var ErrNoHook = errors.New("the release has no post-install hook")

// HookArgs is what one run of a hook is told.
type HookArgs struct {
	Device    string // the slot that was written, a block device
	Kernel    string // path of the kernel written beside it, or ""
	PCRPolicy string // path of the PCR policy written beside it, or ""

	Slot     string // "A" or "B"
	Version  string // of the release in the slot
	Packages string // directory of the extra packages that were fetched, or ""
	Response string // path of the update server's answer, as it came, or ""
}

// Run mounts the slot read-only and runs its hook as upstream does:
//
//	<mount>/postinst DEVICE [KERNEL=PATH] [PCR_POLICY=PATH]
//
// with these variables of ours, where set, and no other: LD_LIBRARY_PATH,
// PATH, ALL_PROXY, HTTP_PROXY, HTTPS_PROXY as upstream, and beyond upstream
// NO_PROXY and the four proxy variables in lower case, which is how curl and
// others read them. Besides, DRYDOCK_SLOT, DRYDOCK_VERSION, DRYDOCK_PACKAGES and
// DRYDOCK_RESPONSE hold the fields of a.
//
// A release without a hook is success, and Output says so, unless the hook is
// Required. Any code but 0 is
// an *ExitError, 3 no less than 1: upstream takes 3 for success (a leftover of
// ChromeOS) and then waits for a reboot into nothing. A slot that cannot be
// mounted here is ErrNoMount. When Run returns, the slot is unmounted and
// nothing of the hook's process group runs any more.
func (h Hook) Run(ctx context.Context, a HookArgs) error {
	err := withMount(mount{Device: a.Device, Dir: h.Dir}, func(dir string) error {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return fmt.Errorf("run hook: %w", err)
		}
		defer root.Close()
		// Lstat: a link into nothing is a broken hook, not none.
		_, err = root.Lstat(h.path())
		switch {
		case errors.Is(err, fs.ErrNotExist) && h.Required:
			return fmt.Errorf("run hook %s of release %s: %w", h.path(), a.Version, ErrNoHook)
		case errors.Is(err, fs.ErrNotExist):
			h.say("release " + a.Version + " has no hook " + h.path() + ": nothing to run")
			return nil
		}
		if _, err = root.Stat(h.path()); err != nil {
			return fmt.Errorf("run hook: %w", err)
		}
		return h.exec(ctx, filepath.Join(dir, h.path()), a)
	})
	return h.afterMount(ctx, a, err)
}

// afterMount falls back to the running system's hook if the slot was not
// mounted because of its twin.
func (h Hook) afterMount(ctx context.Context, a HookArgs, err error) error {
	if !errors.Is(err, ErrTwin) || h.Running == "" {
		return err
	}
	h.say("slot is a twin of the running system: running " + h.Running)
	return h.exec(ctx, h.Running, a)
}

func (h Hook) exec(ctx context.Context, path string, a HookArgs) error {
	p := program{
		Name:    "hook " + h.path(),
		Path:    path,
		Args:    []string{a.Device},
		Env:     h.env(a),
		Timeout: h.Timeout,
		Output:  h.Output,
	}
	if p.Timeout == 0 {
		p.Timeout = defaultHookTimeout
	}
	if a.Kernel != "" {
		p.Args = append(p.Args, "KERNEL="+a.Kernel)
	}
	if a.PCRPolicy != "" {
		p.Args = append(p.Args, "PCR_POLICY="+a.PCRPolicy)
	}
	return p.run(ctx)
}

// path returns the hook's path from the root of the slot.
func (h Hook) path() string {
	if path := strings.TrimLeft(h.Path, "/"); path != "" {
		return path
	}
	return defaultHookPath
}

// passed are the variables of our environment that a hook sees.
var passed = []string{
	"LD_LIBRARY_PATH", "PATH",
	"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	"all_proxy", "http_proxy", "https_proxy", "no_proxy",
}

func (h Hook) env(a HookArgs) []string {
	from := h.Environ
	if from == nil {
		from = os.Environ()
	}
	env := []string{"DRYDOCK_SLOT=" + a.Slot, "DRYDOCK_VERSION=" + a.Version, "DRYDOCK_PACKAGES=" + a.Packages, "DRYDOCK_RESPONSE=" + a.Response}
	for _, name := range passed {
		for _, entry := range from {
			if strings.HasPrefix(entry, name+"=") {
				env = append(env, entry)
			}
		}
	}
	return env
}

func (h Hook) say(line string) {
	if h.Output != nil {
		h.Output(line)
	}
}
