package image

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/bits"
)

// Layout and limits of ext2, ext3 and ext4, from the kernel's
// Documentation/filesystems/ext4.
const (
	extRootInode  = 2
	extInodeFixed = 128 // bytes of an inode that every version has

	extMapWords = 15      // i_block: 12 direct blocks, then one, two, three levels
	extDirect   = 12      // direct blocks in i_block
	extFlagTree = 1 << 19 // the inode's i_block is an extent tree
	extFlagData = 1 << 28 // the inode holds its data itself
	extFlagCode = 1 << 11 // the inode is encrypted

	// Incompatible features that change nothing for this reader: file types
	// in directory entries, extents, 64-bit block numbers, multi-mount
	// protection, flexible groups, extended attributes in inodes, checksum
	// seeds, large directories, case folding.
	extIncompatKnown = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x20000
	// extIncompatRecover marks a journal that was not replayed.
	extIncompatRecover = 0x4
	extIncompat64      = 0x80

	// maxExtDir bounds the directories that are searched, in bytes. A
	// directory of 16,000 names takes 512 KiB.
	maxExtDir = 16 << 20
	// maxExtDepth bounds an extent tree; the kernel's limit is 5.
	maxExtDepth = 5
)

// extFS is an ext2, ext3 or ext4 file system.
type extFS struct {
	m           *meter
	blockSize   int64
	inodes      uint32
	perGroup    uint32
	inodeSize   int64
	descSize    int64
	descs       int64 // offset of the group descriptors
	wideDesc    bool  // descriptors hold the upper half of block numbers
	totalBlocks uint64
}

func openExt(m *meter) (node, error) {
	sb, err := m.bytesAt(1024, 1024)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	incompat := le.Uint32(sb[96:])
	if incompat&extIncompatRecover != 0 {
		// What a boot will see is the image with its journal replayed: that
		// is not what was verified, and no reader may guess at it.
		return nil, fmt.Errorf("%w: its journal was not replayed before it was released", ErrCorrupt)
	}
	if unknown := incompat &^ extIncompatKnown; unknown != 0 {
		return nil, fmt.Errorf("%w: ext4 features %#x", ErrFormat, unknown)
	}
	if log := le.Uint32(sb[24:]); log > 6 {
		return nil, fmt.Errorf("%w: blocks of 2^%d KiB", ErrCorrupt, log)
	}
	x := &extFS{
		m:         m,
		blockSize: 1024 << le.Uint32(sb[24:]),
		inodes:    le.Uint32(sb[0:]),
		perGroup:  le.Uint32(sb[40:]),
		inodeSize: extInodeFixed,
		descSize:  32,
	}
	if le.Uint32(sb[76:]) > 0 { // revision 1 says the size of its inodes
		x.inodeSize = int64(le.Uint16(sb[88:]))
	}
	x.totalBlocks = uint64(le.Uint32(sb[4:]))
	if incompat&extIncompat64 != 0 {
		x.descSize = int64(le.Uint16(sb[254:]))
		x.wideDesc = x.descSize >= 64
		x.totalBlocks |= uint64(le.Uint32(sb[336:])) << 32
	}
	if x.perGroup == 0 || x.inodeSize < extInodeFixed || x.inodeSize > x.blockSize ||
		bits.OnesCount64(uint64(x.inodeSize)) != 1 || x.descSize < 32 || x.descSize > x.blockSize {
		return nil, fmt.Errorf("%w: superblock", ErrCorrupt)
	}
	// Group descriptors follow the block that holds the superblock.
	x.descs = (int64(le.Uint32(sb[20:])) + 1) * x.blockSize
	return x.inode(extRootInode)
}

// inode reads the inode of a number, counted from 1.
func (x *extFS) inode(number uint32) (*extNode, error) {
	if number == 0 || number > x.inodes {
		return nil, fmt.Errorf("%w: inode %d of %d", ErrCorrupt, number, x.inodes)
	}
	group, index := (number-1)/x.perGroup, (number-1)%x.perGroup
	desc, err := x.m.bytesAt(x.descs+int64(group)*x.descSize, x.descSize)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	table := uint64(le.Uint32(desc[8:]))
	if x.wideDesc {
		table |= uint64(le.Uint32(desc[40:])) << 32
	}
	if table >= x.totalBlocks {
		return nil, fmt.Errorf("%w: inode table at block %d of %d", ErrCorrupt, table, x.totalBlocks)
	}
	at, err := x.offset(table)
	if err != nil {
		return nil, err
	}
	raw, err := x.m.bytesAt(at+int64(index)*x.inodeSize, extInodeFixed)
	if err != nil {
		return nil, err
	}
	n := &extNode{x: x, flags: le.Uint32(raw[32:]), length: uint64(le.Uint32(raw[4:]))}
	copy(n.block[:], raw[40:100])
	switch le.Uint16(raw[0:]) >> 12 {
	case 0x4:
		n.mode = fs.ModeDir
	case 0xa:
		n.mode = fs.ModeSymlink
	case 0x8:
		n.length |= uint64(le.Uint32(raw[108:])) << 32
	default:
		n.mode = fs.ModeIrregular
	}
	if n.flags&(extFlagData|extFlagCode) != 0 {
		return nil, fmt.Errorf("%w: ext4 inode with flags %#x", ErrFormat, n.flags)
	}
	return n, nil
}

// offset returns where a block begins.
func (x *extFS) offset(block uint64) (int64, error) {
	if block >= 1<<47 { // blocks have at most 2^16 bytes
		return 0, fmt.Errorf("%w: block %d", ErrCorrupt, block)
	}
	return int64(block) * x.blockSize, nil
}

// extNode is an inode.
type extNode struct {
	x      *extFS
	mode   fs.FileMode
	flags  uint32
	length uint64
	block  [extMapWords * 4]byte // i_block
}

func (n *extNode) kind() fs.FileMode { return n.mode }

func (n *extNode) content(limit int64) ([]byte, error) {
	if limit < 0 || n.length > uint64(limit) {
		return nil, tooLarge(n.length, limit)
	}
	if n.mode == fs.ModeSymlink && n.length < uint64(len(n.block)) && n.flags&extFlagTree == 0 {
		return n.block[:n.length], nil // a short target stands in the inode
	}
	return n.bytes()
}

// bytes returns the whole content, whose length the caller has bounded.
func (n *extNode) bytes() ([]byte, error) {
	data := make([]byte, 0, n.length)
	for index := uint64(0); uint64(len(data)) < n.length; index++ {
		size := min(n.length-uint64(len(data)), uint64(n.x.blockSize))
		block, err := n.locate(index)
		if err != nil {
			return nil, err
		}
		if block == 0 { // a hole
			data = append(data, make([]byte, size)...)
			continue
		}
		at, err := n.x.offset(block)
		if err != nil {
			return nil, err
		}
		piece, err := n.x.m.bytesAt(at, int64(size))
		if err != nil {
			return nil, err
		}
		data = append(data, piece...)
	}
	return data, nil
}

// child searches the directory from its beginning. The blocks of a hashed
// directory's index read as empty entries, which is what they are made for.
func (n *extNode) child(name string) (node, error) {
	if n.length > maxExtDir {
		return nil, fmt.Errorf("%w: directory of %d bytes", ErrCorrupt, n.length)
	}
	dir, err := n.bytes()
	if err != nil {
		return nil, err
	}
	for at := 0; at+8 <= len(dir); {
		entry := dir[at:]
		step := int(binary.LittleEndian.Uint16(entry[4:]))
		if step == 0 || step == 0xffff {
			step = 1 << 16 // the whole of a block of 64 KiB
		}
		size := int(entry[6])
		if step < 8+size || step > len(entry) {
			return nil, fmt.Errorf("%w: directory entry", ErrCorrupt)
		}
		number := binary.LittleEndian.Uint32(entry)
		if number != 0 && string(entry[8:8+size]) == name {
			return n.x.inode(number)
		}
		at += step
	}
	return nil, fs.ErrNotExist
}

// locate returns the block that holds the file's block index, or 0 for a hole.
func (n *extNode) locate(index uint64) (uint64, error) {
	if n.flags&extFlagTree != 0 {
		return n.searchTree(index)
	}
	return n.searchMap(index)
}

// searchMap follows the block map of ext2 and ext3.
func (n *extNode) searchMap(index uint64) (uint64, error) {
	le := binary.LittleEndian
	if index < extDirect {
		return uint64(le.Uint32(n.block[4*index:])), nil
	}
	index -= extDirect
	words := uint64(n.x.blockSize / 4)
	reach := words // blocks that the current number of levels reaches
	for level := 0; level < extMapWords-extDirect; level++ {
		if index >= reach {
			index -= reach
			reach *= words
			continue
		}
		block := uint64(le.Uint32(n.block[4*(extDirect+level):]))
		for ; level >= 0 && block != 0; level-- {
			reach /= words
			at, err := n.x.offset(block)
			if err != nil {
				return 0, err
			}
			word, err := n.x.m.bytesAt(at+int64(index/reach)*4, 4)
			if err != nil {
				return 0, err
			}
			block, index = uint64(le.Uint32(word)), index%reach
		}
		return block, nil
	}
	return 0, fmt.Errorf("%w: file is longer than its block map", ErrCorrupt)
}

// searchTree follows the extent tree of ext4.
func (n *extNode) searchTree(index uint64) (uint64, error) {
	area := n.block[:]
	for range maxExtDepth + 1 {
		le := binary.LittleEndian
		entries, depth := int(le.Uint16(area[2:])), le.Uint16(area[6:])
		if le.Uint16(area) != 0xf30a || 12+12*entries > len(area) {
			return 0, fmt.Errorf("%w: extent tree", ErrCorrupt)
		}
		e := extentBefore(area[12:12+12*entries], index)
		if e == nil {
			return 0, nil
		}
		if depth == 0 {
			return leafBlock(e, index), nil
		}
		at, err := n.x.offset(uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return 0, err
		}
		if area, err = n.x.m.bytesAt(at, n.x.blockSize); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: extent tree is deeper than %d", ErrCorrupt, maxExtDepth)
}

// extentBefore returns the last entry that begins at index or before.
func extentBefore(entries []byte, index uint64) []byte {
	var last []byte
	for ; len(entries) >= 12; entries = entries[12:] {
		if uint64(binary.LittleEndian.Uint32(entries)) > index {
			break
		}
		last = entries[:12]
	}
	return last
}

// leafBlock returns the block of index inside the extent e, or 0 where e ends
// before it or was allocated but never written.
func leafBlock(e []byte, index uint64) uint64 {
	le := binary.LittleEndian
	first, count := uint64(le.Uint32(e)), uint64(le.Uint16(e[4:]))
	if count > 32768 || index >= first+count {
		return 0
	}
	return (uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32) + index - first
}
