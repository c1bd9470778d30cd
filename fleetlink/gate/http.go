package gate

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
)

// HTTP is open while a URL answers with a status. A redirect is an answer like
// others: it is not followed.
type HTTP struct {
	Access
	URL    string
	Status int // zero: 200
}

// Shut implements Gate.
func (h HTTP) Shut(ctx context.Context) []string {
	status, body, err := h.get(ctx, h.URL, maxWord, false)
	want := cmp.Or(h.Status, http.StatusOK)
	switch {
	case err != nil && status == 0:
		return []string{fmt.Sprintf("%s cannot be asked: %v", shown(h.URL), err)}
	case status == want: // what it says besides is not of interest, cut off or not
		return nil
	}
	why := fmt.Sprintf("%s answers %d, not %d", shown(h.URL), status, want)
	if said := clip(string(body), maxWord); said != "" {
		why += ": " + said
	}
	return []string{why}
}
