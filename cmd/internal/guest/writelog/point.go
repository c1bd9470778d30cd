package writelog

import (
	"fmt"
	"math/rand/v2"
)

// A Point is one state that a power failure could have left a disk in. It is a
// value: the same Point of the same log is the same state.
type Point struct {
	N int // the entries that had completed: the first N of the log
	// Keep, unless nil, is asked of each write that was not flushed whether it
	// was written, before Loss. It always answers the same of the same entry.
	Keep     func(entry int) bool
	Loss     Loss     // what of the unflushed writes was lost; the zero Loss loses nothing
	Discards Discards // how discarded sectors read
}

// A Loss says, by a seed, what of a drive's cache did not reach its medium.
type Loss struct {
	Seed uint64
	Lost float64 // the share of the writes that is lost whole: of 0 none, of 1 all
	Torn float64 // the share of the others that is torn: only some of their sectors were written
}

// Discards says what is read from sectors that were discarded, and not written
// since. A drive that promises nothing may return either, sector by sector.
type Discards uint8

// What is read from discarded sectors.
const (
	ReadZero   Discards = iota // zeros, as from QEMU's files with discard=unmap
	ReadOld                    // what was there before, as from QEMU's files without
	ReadEither                 // by the seed of the Loss, one or the other
)

// String shows a Point so that a test's message tells where to look.
func (p Point) String() string {
	return fmt.Sprintf("after %d entries, seed %#x, %.0f%% lost, %.0f%% torn, discards %d", p.N, p.Loss.Seed, 100*p.Loss.Lost, 100*p.Loss.Torn, p.Discards)
}

// Pick returns a Point by chance. Every state that is possible has a chance;
// those with one write lost, one left, all lost or none have a good one, and
// short epochs (in which flags change hands) as good a one as long ones (in
// which images are written).
func (l *Log) Pick(r *rand.Rand) Point {
	p := Point{N: r.IntN(len(l.entries) + 1), Loss: Loss{Seed: r.Uint64()}, Discards: Discards(r.IntN(3))}
	if epochs := l.Epochs(); len(epochs) > 0 && r.IntN(2) == 0 {
		e := epochs[r.IntN(len(epochs))]
		p.N = e.First + r.IntN(e.End-e.First+1)
	}
	one := 1 / float64(max(1, len(l.Unflushed(p.N))))
	p.Loss.Lost = []float64{0, one, r.Float64(), r.Float64(), 1 - one, 1}[r.IntN(6)]
	p.Loss.Torn = []float64{0, r.Float64(), 1}[r.IntN(3)]
	return p
}

// A fate is what became of an entry.
type fate uint8

const (
	lost fate = iota
	torn
	whole
)

// fate returns what became of one of the first N entries, all of whose
// predecessors up to flushed are durable.
func (p *Point) fate(i int, e Entry, flushed int) fate {
	outcome := p.cached(i, e, flushed)
	if outcome == lost || e.Flags&Discard == 0 || p.Discards == ReadZero {
		return outcome
	}
	if p.Discards == ReadOld {
		return lost
	}
	return torn
}

// cached returns what the cache made of an entry.
func (p *Point) cached(i int, e Entry, flushed int) fate {
	if i < flushed || e.Flags&FUA != 0 {
		return whole
	}
	if p.Keep != nil && !p.Keep(i) || p.Loss.share(i, forLost) < p.Loss.Lost {
		return lost
	}
	if p.Loss.share(i, forTorn) < p.Loss.Torn {
		return torn
	}
	return whole
}

// shows tells whether a sector of a torn entry reads as the entry has it. The
// sector is the disk's, of Sector bytes.
func (p *Point) shows(i int, e Entry, flushed int, sector int64) bool {
	if p.cached(i, e, flushed) == torn && !p.Loss.wrote(i, e, sector) {
		return false
	}
	return e.Flags&Discard == 0 || p.Discards == ReadZero || p.Loss.hash(i, forDiscard, sector)&1 == 0
}

// wrote tells whether a sector of a torn write reached the medium: of some
// writes the beginning did, of some the end, of some any part.
func (x Loss) wrote(i int, e Entry, sector int64) bool {
	first, count := e.Offset/Sector, e.Length/Sector
	cut := first + int64(x.hash(i, forCut, 0)%uint64(count+1))
	switch x.hash(i, forKind, 0) % 3 {
	case 0:
		return sector < cut
	case 1:
		return sector >= cut
	default:
		return x.hash(i, forSector, sector)&1 == 0
	}
}

// What a hash is for: each question has its own, so that answers do not depend
// on each other.
const (
	forLost = iota
	forTorn
	forKind
	forCut
	forSector
	forDiscard
)

// share returns a number in [0, 1) for an entry.
func (x Loss) share(i int, question uint64) float64 {
	return float64(x.hash(i, question, 0)>>11) / (1 << 53)
}

// hash mixes its arguments with SplitMix64's finalizer. A random source would
// make the answers depend on the order of the questions, and a View is read in
// any order.
func (x Loss) hash(i int, question uint64, sector int64) uint64 {
	h := x.Seed
	for _, v := range [3]uint64{uint64(i), question, uint64(sector)} {
		h += v + 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}
