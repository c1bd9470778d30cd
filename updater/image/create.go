package image

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/erofs/go-erofs"
)

// File is one file of an image that Create makes.
type File struct {
	Name string      // slash-separated path from the root
	Mode fs.FileMode // permission bits, 0 for 0644; fs.ModeSymlink for a link
	Data []byte      // content, or a link's target
}

// Create makes an erofs image of files in out, readable by ReadFile and by the
// kernel. Directories are made where needed. The same files in the same order
// make the same bytes. It needs room for the content in the directory for
// temporary files.
func Create(out io.WriteSeeker, files ...File) error {
	w := erofs.Create(out, erofs.WithBuildTime(0, 0))
	for _, f := range files {
		if err := add(w, f); err != nil {
			return fmt.Errorf("create image: add %s: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	return nil
}

func add(w *erofs.Writer, f File) error {
	if !fs.ValidPath(f.Name) || f.Name == "." {
		return fs.ErrInvalid
	}
	switch f.Mode.Type() {
	case fs.ModeSymlink:
		return w.Symlink(string(f.Data), f.Name)
	case 0:
	default:
		return fmt.Errorf("%w: %v", fs.ErrInvalid, f.Mode.Type())
	}
	file, err := w.Create(f.Name)
	if err != nil {
		return err
	}
	if f.Mode != 0 {
		if err := file.Chmod(f.Mode.Perm()); err != nil {
			return err
		}
	}
	if _, err := file.Write(f.Data); err != nil {
		return err
	}
	return file.Close()
}
