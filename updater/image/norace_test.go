//go:build !race

package image

// damageShare is how many of the bytes of an image are damaged in turn: all.
const damageShare = 1
