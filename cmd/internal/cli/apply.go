package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/drydock-os/drydock/updater/payload"
	"github.com/spf13/cobra"
)

// spare keeps this process small: a payload of any size is applied with the
// same few megabytes, and what is garbage is collected soon. The limit is soft:
// a payload with large operations passes it and is only slower.
func spare() {
	debug.SetGCPercent(25)
	debug.SetMemoryLimit(24 << 20)
}

// workers apply a payload at once: more decompress faster than most disks take
// it, and each needs 3 MiB.
const workers = 4

// application is what payload apply was told.
type application struct {
	keys, targets, sources []string
	kernel, pcrPolicy      string
}

func (s *session) payloadApply() *cobra.Command {
	var a application
	c := &cobra.Command{
		Use:   "apply --key PEM [--source [NAME=]IMG]... --target [NAME=]IMG... [--kernel FILE] [--pcr-policy FILE] FILE",
		Short: "Write a payload's images, verified",
		Long: "Write a payload's images to files or block devices, verify all signatures and hashes, and read back what was written.\n" +
			"A target without a NAME is for the payload's only partition, or for \"root\". A file gets its new content only when\n" +
			"all is verified; a device is written to where it is. A delta of major 1 without a source changes its targets in place,\n" +
			"if they hold the old images. --kernel and --pcr-policy are left alone by a payload that has none.\n" +
			"FILE may be an http or https URL.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return s.apply(c.Context(), args[0], a) },
	}
	f := c.Flags()
	f.StringArrayVar(&a.keys, "key", nil, "file with a trusted public key in `PEM`; may be repeated")
	f.StringArrayVar(&a.targets, "target", nil, "where a partition goes: `[NAME=]IMG`; may be repeated")
	f.StringArrayVar(&a.sources, "source", nil, "a partition's old image, which a delta reads: `[NAME=]IMG`; may be repeated")
	f.StringVar(&a.kernel, "kernel", "", "`FILE` for the kernel")
	f.StringVar(&a.pcrPolicy, "pcr-policy", "", "`FILE` for the PCR policy")
	return c
}

func (s *session) apply(ctx context.Context, name string, a application) error {
	keys, err := readKeys(a.keys)
	if err != nil {
		return err
	}
	spare()
	p, err := payload.Open(ctx, s.source(name), keys)
	if err != nil {
		return advised{fmt.Errorf("%s: %w", name, err), "nothing was written"}
	}
	defer p.Close()
	j, err := a.plan(p.Info())
	if err != nil {
		return err
	}
	defer j.close()
	if err := j.open(p.Info()); err != nil {
		return advised{err, "nothing was written"}
	}
	bar := s.bar("applying")
	result, err := p.Apply(ctx, j.targets, payload.Options{Now: s.Now(), Progress: bar.show, Workers: workers})
	bar.end()
	if err != nil {
		return advised{fmt.Errorf("%s: %w", name, err), j.meaning(err)}
	}
	for _, o := range j.outputs {
		if err := o.commit(); err != nil {
			return err
		}
	}
	return s.showApplied(j, p.Info(), result)
}

// job is an application to a certain payload.
type job struct {
	places  map[string]string // partition: path of its target
	origins map[string]string // partition: path of its source
	unused  []string          // notes on what was given for nothing

	targets map[string]payload.Target
	outputs map[string]*output
	sources []io.Closer
}

// plan gives each partition its target and source by name.
func (a application) plan(info payload.Info) (*job, error) {
	j := &job{targets: map[string]payload.Target{}, outputs: map[string]*output{}}
	if len(a.targets) == 0 {
		return nil, usage("--target is missing")
	}
	var err error
	if j.places, err = byName(info, "--target", a.targets); err != nil {
		return nil, err
	}
	if j.origins, err = byName(info, "--source", a.sources); err != nil {
		return nil, err
	}
	for _, extra := range []struct{ name, flag, path string }{
		{payload.Kernel, "--kernel", a.kernel}, {payload.PCRPolicy, "--pcr-policy", a.pcrPolicy},
	} {
		switch {
		case extra.path == "":
		case j.places[extra.name] != "":
			return nil, usage("%s and --target %s=… are the same", extra.flag, extra.name)
		case !has(info, extra.name):
			j.unused = append(j.unused, fmt.Sprintf("the payload has no %s: %s is left as it is", extra.name, extra.path))
		default:
			j.places[extra.name] = extra.path
		}
	}
	for _, part := range info.Partitions {
		if j.places[part.Name] == "" {
			return nil, advised{fmt.Errorf("%w: %s", payload.ErrNoTarget, part.Name), "nothing was written"}
		}
	}
	return j, nil
}

// byName reads arguments of the form [NAME=]PATH.
func byName(info payload.Info, flag string, args []string) (map[string]string, error) {
	paths := map[string]string{}
	for _, arg := range args {
		name, path := splitName(arg)
		if name == "" {
			name = payload.Root
			if len(info.Partitions) == 1 {
				name = info.Partitions[0].Name
			}
		}
		if path == "" {
			return nil, usage("%s %s names no file", flag, arg)
		}
		if paths[name] != "" {
			return nil, usage("%s is given twice for partition %s", flag, name)
		}
		if !has(info, name) {
			return nil, usage("%s %s: the payload has no partition %s", flag, arg, name)
		}
		paths[name] = path
	}
	return paths, nil
}

// splitName splits NAME=PATH at the first "=", if what is before it can be a
// partition's name. "./a=b" is a path.
func splitName(arg string) (name, path string) {
	name, path, found := strings.Cut(arg, "=")
	if !found || name == "" || name[0] == '.' || strings.Contains(name, "/") {
		return "", arg
	}
	return name, path
}

func has(info payload.Info, name string) bool {
	return slices.ContainsFunc(info.Partitions, func(p payload.PartitionInfo) bool { return p.Name == name })
}

// open opens all targets and sources.
func (j *job) open(info payload.Info) error {
	for _, part := range info.Partitions {
		var t payload.Target
		origin := j.origins[part.Name]
		if origin != "" {
			f, size, err := openImage(origin)
			if err != nil {
				return err
			}
			j.sources = append(j.sources, f)
			t.Source, t.SourceSize = f, size
		}
		place := j.places[part.Name]
		for other, o := range j.outputs {
			if o.is(place) {
				return fmt.Errorf("%s is the target of both %s and %s", place, other, part.Name)
			}
		}
		o, err := openOutput(place, info.Major == 1 && part.SourceHash != nil && origin == "")
		if err != nil {
			return err
		}
		j.outputs[part.Name] = o
		t.Device = o.device
		if origin != "" && o.final == "" && sameDevice(origin, place) {
			return fmt.Errorf("%s is both source and target of %s", place, part.Name)
		}
		j.targets[part.Name] = t
	}
	return nil
}

func sameDevice(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && (os.SameFile(x, y) || sameNumber(x, y))
}

func (j *job) close() {
	for _, o := range j.outputs {
		o.close()
	}
	for _, f := range j.sources {
		f.Close()
	}
}

// before are the reasons for which nothing is written.
var before = []error{
	payload.ErrNoTarget, payload.ErrTargetTooSmall, payload.ErrSourceMismatch, payload.ErrExpired, payload.ErrResume,
}

// meaning says what a failure leaves behind.
func (j *job) meaning(err error) string {
	if slices.ContainsFunc(before, func(known error) bool { return errors.Is(err, known) }) {
		return "nothing was written"
	}
	var torn []string
	for name, o := range j.outputs {
		if o.final == "" {
			torn = append(torn, j.places[name])
		}
	}
	if torn == nil {
		return "the targets are as they were"
	}
	slices.Sort(torn)
	return strings.Join(torn, " and ") + " may be written in part and must not be booted"
}

// appliedFacts is what apply did, as JSON.
type appliedFacts struct {
	Version    string            `json:"version,omitempty"`
	Partitions map[string]string `json:"partitions"` // SHA-256 as read back
	Targets    map[string]string `json:"targets"`
	Notes      []string          `json:"notes,omitempty"`
}

func (s *session) showApplied(j *job, info payload.Info, result payload.Result) error {
	facts := appliedFacts{Version: info.Version, Partitions: map[string]string{}, Targets: j.places, Notes: j.unused}
	for name, sum := range result.Partitions {
		facts.Partitions[name] = fmt.Sprintf("%x", sum)
	}
	return s.print(facts, func(w io.Writer) {
		for _, p := range info.Partitions {
			fmt.Fprintf(w, "%s written to %s, read back and verified: sha256 %s\n", p.Name, j.places[p.Name], facts.Partitions[p.Name])
		}
		for _, note := range facts.Notes {
			fmt.Fprintln(w, note)
		}
	})
}
