package cli

import (
	"bufio"
	"context"
	"crypto"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/drydock-os/drydock/updater/payload"
	"github.com/spf13/cobra"
)

// recipe is what payload create was told.
type recipe struct {
	keys, partitions            []string
	version, image, kernel, out string
	pcrPolicy, expires          string
	major                       int
}

func (s *session) payloadCreate() *cobra.Command {
	var r recipe
	c := &cobra.Command{
		Use:   "create --key PRIVATE_PEM --version V (--image IMG | --partition NAME=IMG...) [--kernel FILE] [--major 1|2] --out FILE",
		Short: "Make and sign a full payload",
		Long: "Make a full payload of images and sign it with one or more private keys. Major 2 (zstd) is Drydock's own,\n" +
			"major 1 (bzip2) is what upstream's update engine takes. The same input and RSA keys give the same bytes.\n" +
			"FILE is only there when it is whole and verifies.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.create(c.Context(), r) },
	}
	f := c.Flags()
	f.StringArrayVar(&r.keys, "key", nil, "file with a private key in `PEM`, RSA or (major 2) ECDSA P-256; may be repeated")
	f.StringVar(&r.version, "version", "", "`VERSION` of the release; signed")
	f.StringVar(&r.image, "image", "", "`IMG` of the partition root")
	f.StringArrayVar(&r.partitions, "partition", nil, "another partition and its image: `NAME=IMG`; may be repeated")
	f.StringVar(&r.kernel, "kernel", "", "`FILE` with the kernel")
	f.StringVar(&r.pcrPolicy, "pcr-policy", "", "`FILE` with the PCR policy")
	f.IntVar(&r.major, "major", 2, "format: `1 or 2`")
	f.StringVar(&r.expires, "expires", "", "`TIME` (RFC 3339, or YYYY-MM-DD) after which no machine takes the payload; signed")
	f.StringVar(&r.out, "out", "", "`FILE` to write")
	return c
}

// check says what is wrong with the command line.
func (r recipe) check() error {
	switch {
	case len(r.keys) == 0:
		return usage("--key is missing: no machine takes a payload that is not signed")
	case r.version == "":
		return usage("--version is missing")
	case r.out == "":
		return usage("--out is missing")
	case r.image == "" && len(r.partitions) == 0:
		return usage("--image or --partition is missing")
	case r.image != "" && len(r.partitions) > 0:
		return usage("--image and --partition exclude each other")
	case r.major != 1 && r.major != 2:
		return usage("--major %d is neither 1 nor 2", r.major)
	}
	return nil
}

func (s *session) create(ctx context.Context, r recipe) error {
	if err := r.check(); err != nil {
		return err
	}
	spec := payload.Spec{Major: r.major, Version: r.version, TempDir: filepath.Dir(r.out)}
	var err error
	if spec.Expires, err = parseTime(r.expires); err != nil {
		return err
	}
	var trusted payload.Keys
	for _, name := range r.keys {
		key, err := readPrivate(name)
		if err != nil {
			return err
		}
		spec.Signers = append(spec.Signers, key)
		trusted = append(trusted, key.Public())
	}
	spec.Partitions, err = r.images()
	defer func() {
		for _, i := range spec.Partitions {
			i.Image.(io.Closer).Close()
		}
	}()
	if err != nil {
		return err
	}
	return s.write(ctx, r.out, spec, trusted)
}

// images opens the images in the order of the command line, the kernel and the
// PCR policy last.
func (r recipe) images() ([]payload.Image, error) {
	var images []payload.Image
	add := func(name, path string) error {
		f, size, err := openImage(path)
		if err == nil {
			images = append(images, payload.Image{Name: name, Image: f, Size: size})
		}
		return err
	}
	named := r.partitions
	if r.image != "" {
		named = []string{payload.Root + "=" + r.image}
	}
	for _, arg := range named {
		name, path := splitName(arg)
		if name == "" || path == "" {
			return images, usage("--partition %s is not of the form NAME=IMG", arg)
		}
		if err := add(name, path); err != nil {
			return images, err
		}
	}
	for _, extra := range []struct{ name, path string }{{payload.Kernel, r.kernel}, {payload.PCRPolicy, r.pcrPolicy}} {
		if extra.path == "" {
			continue
		}
		if err := add(extra.name, extra.path); err != nil {
			return images, err
		}
	}
	return images, nil
}

// write makes the payload beside out, reads it as a machine would, and gives
// it its name.
func (s *session) write(ctx context.Context, out string, spec payload.Spec, trusted payload.Keys) error {
	if info, err := os.Stat(out); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("write %s: it is there and is no file", out)
	}
	o, err := newFile(out, 0o644)
	if err != nil {
		return err
	}
	defer o.close()
	buffered := bufio.NewWriterSize(o.file, 1<<20)
	if err := payload.Create(ctx, buffered, spec); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	info, err := payload.Verify(ctx, payload.FileSource(o.file.Name()), trusted)
	if err != nil {
		return fmt.Errorf("check what was made: %w", err)
	}
	if err := o.commit(); err != nil {
		return err
	}
	return s.showPayload(info, true)
}

func readPrivate(name string) (crypto.Signer, error) {
	pem, err := readSmall(name)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, err := payload.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", name, err)
	}
	return key, nil
}

// parseTime reads a time, or a day, which ends in UTC.
func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usage("--expires %s is neither a date nor a time of RFC 3339", text)
	}
	return t, nil
}
