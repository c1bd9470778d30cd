//go:build !linux

package payload

import "os"

func openDirect(string, int64) *os.File { return nil }

func zeroRange(*os.File, int64, int64) bool { return false }

func dropCache(string, int64, int64) {}
