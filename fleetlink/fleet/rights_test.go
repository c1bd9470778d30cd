package fleet

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drydock-os/drydock/fleetlink"
	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
	"github.com/drydock-os/drydock/fleetlink/fleet/fleettest"
)

// grant makes a user of etcd's v2 API who may read all and write below paths
// (Documentation/v2/auth_api.md of etcd), and returns its password's file.
func grant(t *testing.T, e *fleettest.Etcd, user string, paths ...string) string {
	t.Helper()
	writes := ""
	if len(paths) > 0 {
		writes = `"` + strings.Join(paths, `", "`) + `"`
	}
	for _, r := range []struct{ path, body string }{
		{"roles/" + user, fmt.Sprintf(`{"role":%q,"permissions":{"kv":{"read":["/*"],"write":[%s]}}}`, user, writes)},
		{"users/" + user, fmt.Sprintf(`{"user":%q,"password":"secret","roles":[%q]}`, user, user)},
	} {
		auth(t, e, http.MethodPut, r.path, r.body)
	}
	file := filepath.Join(t.TempDir(), user)
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func auth(t *testing.T, e *fleettest.Etcd, method, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.URL+"/v2/auth/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("root", "root")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, text)
	}
}

// TestLacking: what a user of a real etcd may not write is named; asking writes
// nothing, and no event for those that watch.
func TestLacking(t *testing.T) {
	e := fleettest.StartEtcd(t)
	const own = "/drydock/_coreos.com/fleet/" + idA
	if err := e.Set("/_coreos.com/fleet/machines/"+idA+"/object", "{}"); err != nil {
		t.Fatal(err)
	}
	open := func(user, password string) *Link {
		o := Options{Etcd: etcd2.Options{Endpoints: []string{e.URL}, User: user, PasswordFile: password}, CordonKey: "reboot", CordonValue: "draining",
			Machine: fleetlink.Machine{ID: idA}, Record: &notes{}}
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if lacking, err := open("", "").Lacking(t.Context(), true); err != nil || len(lacking) > 0 {
		t.Errorf("without authentication: %q, %v", lacking, err)
	}
	auth(t, e, http.MethodPut, "users/root", `{"user":"root","password":"root"}`)
	users := map[string]string{"reader": grant(t, e, "reader"), "mover": grant(t, e, "mover", "/_coreos.com/fleet/*"), "all": grant(t, e, "all", "/_coreos.com/fleet/*", "/drydock/*")}
	auth(t, e, http.MethodPut, "enable", "")
	_, before, err := open("all", users["all"]).etcd.Get(t.Context(), "/_coreos.com") // its users are in the same store
	if err != nil {
		t.Fatal(err)
	}
	job, metadata := "write /_coreos.com/fleet/job/drydock.asks/target (to move units)", "write /_coreos.com/fleet/machines/"+idA+"/metadata/reboot (to take the cordon back)"
	for user, want := range map[string][]string{"reader": {"write " + own + " (to write down what is done)", job, metadata}, "mover": {"write " + own + " (to write down what is done)"}, "all": nil} {
		if lacking, err := open(user, users[user]).Lacking(t.Context(), false); err != nil || !slices.Equal(lacking, want) {
			t.Errorf("%s lacks %q, %v; want %q", user, lacking, err, want)
		}
	}
	_, after, err := open("all", users["all"]).etcd.Get(t.Context(), "/_coreos.com")
	if err != nil || after != before {
		t.Errorf("etcd's index was %d and is %d: something was written (%v)", before, after, err)
	}
}
