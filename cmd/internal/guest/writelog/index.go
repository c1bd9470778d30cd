package writelog

import (
	"iter"
	"slices"
)

// levels is more than the tree ever has: maxEntries have fewer than 1<<24 ends.
const levels = 32

// An index finds the entries that cover a place of the disk, newest first. It
// is a segment tree over the pieces that the entries' ends cut the disk into:
// piece k is [cuts[k], cuts[k+1]), and a node lists the entries that cover all
// pieces below it and not all below its parent. So an entry is in few lists
// however many pieces it covers, and a log of discards of the whole disk costs
// no more than one of small writes.
type index struct {
	cuts  []int64
	start []uint32 // node k's list is list[start[k]:start[k+1]]
	list  []uint32 // entries, ascending within each node
}

func newIndex(entries []Entry) index {
	var x index
	for _, e := range entries {
		if e.changes() {
			x.cuts = append(x.cuts, e.Offset, e.Offset+e.Length)
		}
	}
	slices.Sort(x.cuts)
	x.cuts = slices.Compact(x.cuts)
	x.start = make([]uint32, 2*x.pieces()+2)
	for _, e := range entries {
		x.nodes(e, func(node int) { x.start[node+1]++ })
	}
	for i := 1; i < len(x.start); i++ {
		x.start[i] += x.start[i-1]
	}
	x.list = make([]uint32, x.start[len(x.start)-1])
	next := slices.Clone(x.start)
	for i, e := range entries {
		x.nodes(e, func(node int) {
			x.list[next[node]] = uint32(i)
			next[node]++
		})
	}
	return x
}

// pieces is how many pieces there are.
func (x *index) pieces() int { return max(0, len(x.cuts)-1) }

// end is where the last piece ends, in bytes.
func (x *index) end() int64 {
	if len(x.cuts) == 0 {
		return 0
	}
	return x.cuts[len(x.cuts)-1]
}

// nodes visits the nodes that list an entry.
func (x *index) nodes(e Entry, visit func(node int)) {
	if !e.changes() {
		return
	}
	lo, _ := slices.BinarySearch(x.cuts, e.Offset)
	hi, _ := slices.BinarySearch(x.cuts, e.Offset+e.Length)
	lo, hi = lo+x.pieces(), hi+x.pieces()
	for ; lo < hi; lo, hi = lo>>1, hi>>1 {
		if lo&1 == 1 {
			visit(lo)
			lo++
		}
		if hi&1 == 1 {
			hi--
			visit(hi)
		}
	}
}

// piece returns the piece that holds an offset, and where it ends. Outside of
// all pieces it is -1, up to the first cut or without end.
func (x *index) piece(off int64) (k int, end int64) {
	k, found := slices.BinarySearch(x.cuts, off)
	if !found {
		k--
	}
	switch {
	case k >= x.pieces():
		return -1, maxDisk
	case k < 0 && len(x.cuts) > 0:
		return -1, x.cuts[0]
	case k < 0:
		return -1, maxDisk
	}
	return k, x.cuts[k+1]
}

// covering yields those of the first n entries that cover a piece, newest first:
// it merges the lists of the nodes from the piece's leaf to the root.
func (x *index) covering(piece, n int) iter.Seq[int] {
	return func(yield func(i int) bool) {
		var lists [levels][]uint32
		used := 0
		for node := piece + x.pieces(); node > 0; node >>= 1 {
			all := x.list[x.start[node]:x.start[node+1]]
			if k, _ := slices.BinarySearch(all, uint32(n)); k > 0 {
				lists[used] = all[:k]
				used++
			}
		}
		for used > 0 {
			newest := 0
			for k := 1; k < used; k++ {
				if last(lists[k]) > last(lists[newest]) {
					newest = k
				}
			}
			if !yield(int(last(lists[newest]))) {
				return
			}
			if lists[newest] = lists[newest][:len(lists[newest])-1]; len(lists[newest]) == 0 {
				used--
				lists[newest] = lists[used]
			}
		}
	}
}

func last(list []uint32) uint32 { return list[len(list)-1] }
