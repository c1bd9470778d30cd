package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Layout and limits of squashfs 4.0, from the kernel's
// Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h.
const (
	squashSuper     = 96        // bytes of the superblock
	squashMetaBlock = 8 << 10   // bytes that one metadata block holds
	squashMetaPlain = 1 << 15   // in its header: it is not compressed
	squashPlain     = 1 << 24   // in a block's size: it is not compressed
	squashMaxBlock  = 1 << 20   // bytes that one data block holds at most
	squashNoTail    = 1<<32 - 1 // the file has no fragment
	// squashMaxDir bounds the directories that are searched, in bytes.
	squashMaxDir = 16 << 20
)

// squashFS is a squashfs file system.
type squashFS struct {
	m          *meter
	unpack     unpacker
	blockSize  uint64
	fragments  uint32 // how many
	inodeTable int64
	dirTable   int64
	fragTable  int64
}

func openSquash(m *meter) (node, error) {
	sb, err := m.bytesAt(0, squashSuper)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if major := le.Uint16(sb[28:]); major != 4 {
		return nil, fmt.Errorf("%w: squashfs version %d", ErrFormat, major)
	}
	s := &squashFS{
		m:          m,
		blockSize:  uint64(le.Uint32(sb[12:])),
		fragments:  le.Uint32(sb[16:]),
		inodeTable: int64(le.Uint64(sb[64:])),
		dirTable:   int64(le.Uint64(sb[72:])),
		fragTable:  int64(le.Uint64(sb[80:])),
	}
	if s.unpack, err = newUnpacker(le.Uint16(sb[20:])); err != nil {
		return nil, err
	}
	if s.blockSize < 4<<10 || s.blockSize > squashMaxBlock {
		return nil, fmt.Errorf("%w: blocks of %d bytes", ErrCorrupt, s.blockSize)
	}
	return s.inode(le.Uint64(sb[32:]))
}

// inode reads the inode of a reference: its metadata block's offset in the
// inode table, then 16 bits of offset inside the block's content.
func (s *squashFS) inode(ref uint64) (*squashNode, error) {
	r, err := s.metadata(s.inodeTable, ref>>16, int(ref&0xffff))
	if err != nil {
		return nil, err
	}
	head, err := r.take(16)
	if err != nil {
		return nil, err
	}
	n := &squashNode{s: s}
	switch kind := binary.LittleEndian.Uint16(head); kind {
	case 1, 8:
		n.mode = fs.ModeDir
		err = n.readDir(r, kind == 8)
	case 2, 9:
		err = n.readFile(r, kind == 9)
	case 3, 10:
		n.mode = fs.ModeSymlink
		err = n.readLink(r)
	default:
		n.mode = fs.ModeIrregular
	}
	return n, err
}

// squashNode is an inode.
type squashNode struct {
	s      *squashFS
	mode   fs.FileMode
	length uint64
	rest   *metaReader // a file's block sizes, a link's target

	dirBlock  uint64 // where a directory's listing is in the directory table
	dirOffset int

	blocks     uint64 // where a file's blocks begin
	tail       uint32 // the fragment with the file's end, or squashNoTail
	tailOffset uint32
}

func (n *squashNode) kind() fs.FileMode { return n.mode }

func (n *squashNode) readDir(r *metaReader, extended bool) error {
	le := binary.LittleEndian
	if extended {
		b, err := r.take(24)
		if err != nil {
			return err
		}
		n.length, n.dirBlock, n.dirOffset = uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:])), int(le.Uint16(b[18:]))
		return nil
	}
	b, err := r.take(16)
	if err != nil {
		return err
	}
	n.length, n.dirBlock, n.dirOffset = uint64(le.Uint16(b[8:])), uint64(le.Uint32(b)), int(le.Uint16(b[10:]))
	return nil
}

func (n *squashNode) readFile(r *metaReader, extended bool) error {
	le := binary.LittleEndian
	n.rest = r
	if extended {
		b, err := r.take(40)
		if err != nil {
			return err
		}
		n.blocks, n.length = le.Uint64(b), le.Uint64(b[8:])
		n.tail, n.tailOffset = le.Uint32(b[28:]), le.Uint32(b[32:])
		return nil
	}
	b, err := r.take(16)
	if err != nil {
		return err
	}
	n.blocks, n.length = uint64(le.Uint32(b)), uint64(le.Uint32(b[12:]))
	n.tail, n.tailOffset = le.Uint32(b[4:]), le.Uint32(b[8:])
	return nil
}

func (n *squashNode) readLink(r *metaReader) error {
	b, err := r.take(8)
	if err != nil {
		return err
	}
	n.rest, n.length = r, uint64(binary.LittleEndian.Uint32(b[4:]))
	return nil
}

func (n *squashNode) content(limit int64) ([]byte, error) {
	if limit < 0 || n.length > uint64(limit) {
		return nil, tooLarge(n.length, limit)
	}
	rest := *n.rest // content may be asked for again
	if n.mode == fs.ModeSymlink {
		return rest.take(int(n.length))
	}
	var data []byte
	at := n.blocks
	for whole := n.length / n.s.blockSize; ; whole-- {
		left := n.length - uint64(len(data))
		if left == 0 {
			return data, nil
		}
		if whole == 0 && n.tail != squashNoTail {
			end, err := n.s.fragment(n.tail, n.tailOffset, left)
			return append(data, end...), err
		}
		word, err := rest.take(4)
		if err != nil {
			return nil, err
		}
		size := binary.LittleEndian.Uint32(word)
		block, err := n.s.block(at, size, min(left, n.s.blockSize))
		if err != nil {
			return nil, err
		}
		data = append(data, block...)
		at += uint64(size &^ squashPlain)
	}
}

// block returns the want bytes that a data block must hold. A size of 0 is a
// hole.
func (s *squashFS) block(at uint64, size uint32, want uint64) ([]byte, error) {
	if size == 0 {
		return make([]byte, want), nil
	}
	data, err := s.unblock(at, size)
	if err != nil {
		return nil, err
	}
	if uint64(len(data)) != want {
		return nil, fmt.Errorf("%w: block of %d bytes holds %d", ErrCorrupt, want, len(data))
	}
	return data, nil
}

// unblock returns the content of the data or fragment block at an offset.
func (s *squashFS) unblock(at uint64, size uint32) ([]byte, error) {
	stored := int64(size &^ squashPlain)
	if stored > squashMaxBlock || at >= 1<<62 {
		return nil, fmt.Errorf("%w: block of %d bytes at %d", ErrCorrupt, stored, at)
	}
	raw, err := s.m.bytesAt(int64(at), stored)
	if err != nil || size&squashPlain != 0 {
		return raw, err
	}
	return s.unpack(raw, int(s.blockSize))
}

// fragment returns n bytes at offset in a fragment block, which the ends of
// several files share. Its entry is found through a table of metadata blocks,
// each of 512 entries of 16 bytes.
func (s *squashFS) fragment(index, offset uint32, n uint64) ([]byte, error) {
	if index >= s.fragments {
		return nil, fmt.Errorf("%w: fragment %d of %d", ErrCorrupt, index, s.fragments)
	}
	le := binary.LittleEndian
	where, err := s.m.bytesAt(s.fragTable+int64(index/512)*8, 8)
	if err != nil {
		return nil, err
	}
	r, err := s.metadata(0, le.Uint64(where), int(index%512)*16)
	if err != nil {
		return nil, err
	}
	entry, err := r.take(16)
	if err != nil {
		return nil, err
	}
	data, err := s.unblock(le.Uint64(entry), le.Uint32(entry[8:]))
	if err != nil {
		return nil, err
	}
	if uint64(offset)+n > uint64(len(data)) {
		return nil, fmt.Errorf("%w: fragment ends at %d of %d bytes", ErrCorrupt, uint64(offset)+n, len(data))
	}
	return data[offset:][:n], nil
}

// child searches the directory's listing: headers, each followed by the
// entries whose inodes share a metadata block. The listing's length counts
// three bytes more than there are.
func (n *squashNode) child(name string) (node, error) {
	if n.length > squashMaxDir {
		return nil, fmt.Errorf("%w: directory of %d bytes", ErrCorrupt, n.length)
	}
	left := int(n.length) - 3
	if left <= 0 {
		return nil, fs.ErrNotExist
	}
	r, err := n.s.metadata(n.s.dirTable, n.dirBlock, n.dirOffset)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	for left > 0 {
		head, err := r.take(12)
		if err != nil {
			return nil, err
		}
		block := uint64(le.Uint32(head[4:]))
		left -= 12
		for range uint64(le.Uint32(head)) + 1 {
			entry, err := r.take(8)
			if err != nil {
				return nil, err
			}
			size := int(le.Uint16(entry[6:])) + 1
			offset := uint64(le.Uint16(entry))
			found, err := r.take(size)
			if err != nil {
				return nil, err
			}
			if string(found) == name {
				return n.s.inode(block<<16 | offset)
			}
			if left -= 8 + size; left <= 0 {
				break
			}
		}
	}
	return nil, fs.ErrNotExist
}

// metaReader reads the content of successive metadata blocks.
type metaReader struct {
	s    *squashFS
	next int64 // where the next block begins
	data []byte
}

// metadata begins to read offset bytes into the content of the block that
// begins at bytes into table.
func (s *squashFS) metadata(table int64, at uint64, offset int) (*metaReader, error) {
	if at >= 1<<62 || table < 0 || table >= 1<<62 {
		return nil, fmt.Errorf("%w: metadata at %d", ErrCorrupt, at)
	}
	r := &metaReader{s: s, next: table + int64(at)}
	if err := r.fill(); err != nil {
		return nil, err
	}
	if offset > len(r.data) {
		return nil, fmt.Errorf("%w: metadata block ends before byte %d", ErrCorrupt, offset)
	}
	r.data = r.data[offset:]
	return r, nil
}

// fill adds the content of the next block. An empty one is an error, so that
// each block read makes progress.
func (r *metaReader) fill() error {
	head, err := r.s.m.bytesAt(r.next, 2)
	if err != nil {
		return err
	}
	word := binary.LittleEndian.Uint16(head)
	size := int64(word &^ squashMetaPlain)
	if size > squashMetaBlock {
		return fmt.Errorf("%w: metadata block of %d bytes", ErrCorrupt, size)
	}
	raw, err := r.s.m.bytesAt(r.next+2, size)
	if err == nil && word&squashMetaPlain == 0 {
		raw, err = r.s.unpack(raw, squashMetaBlock)
	}
	if err != nil {
		return err
	}
	if len(raw) == 0 {
		return fmt.Errorf("%w: empty metadata block", ErrCorrupt)
	}
	r.next += 2 + size
	r.data = append(bytes.Clone(r.data), raw...)
	return nil
}

// take returns the next n bytes, which callers bound to some KiB.
func (r *metaReader) take(n int) ([]byte, error) {
	for len(r.data) < n {
		err := r.fill()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: metadata ends early", ErrCorrupt)
		}
		if err != nil {
			return nil, err
		}
	}
	out := r.data[:n]
	r.data = r.data[n:]
	return out, nil
}
