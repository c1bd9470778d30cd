//go:build race

package image

// damageShare is how many of the bytes of an image are damaged in turn: one of
// so many. The race detector makes a reading ten times as slow, and has nothing
// to find in one goroutine.
const damageShare = 3
