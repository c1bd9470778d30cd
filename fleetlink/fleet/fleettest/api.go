package fleettest

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/drydock-os/drydock/fleetlink/fleet/etcd2"
)

// ServeHTTP is fleet's API.
func (f *Fleet) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), 10*time.Second) // fleet gives etcd one second, on machines with time for it
	defer cancel()
	machines, err := f.machines(ctx)
	jobs, err2 := f.jobs(ctx)
	if f.Mute.Load() || err != nil || err2 != nil {
		refuse(rw, 503, "fleet server unable to communicate with etcd")
		return
	}
	what := strings.TrimPrefix(req.URL.Path, "/fleet/v1/")
	switch unit := strings.TrimPrefix(what, "units/"); {
	case what == "machines" && req.Method == http.MethodPatch:
		f.patch(rw, req)
	case what == "machines":
		f.Lock()
		if f.stale != nil {
			machines = f.stale
		}
		f.Unlock()
		var all []any
		for _, id := range slices.Sorted(maps.Keys(machines)) {
			all = append(all, map[string]any{"id": id, "primaryIP": "192.0.2.1", "metadata": machines[id]})
		}
		give(rw, req, "machines", all)
	case what == "units":
		dir, _, _ := f.Keys.Get(ctx, f.Key("states"))
		var all []any
		for _, j := range jobs {
			told, _ := dir.Child(j.name)
			_, state := told.Child(j.target)
			f.Lock()
			all = append(all, map[string]any{"name": j.name, "options": f.Files[j.name], "desiredState": j.desired, "machineID": j.target, "currentState": j.current(state)})
			f.Unlock()
		}
		give(rw, req, "units", all)
	case what == "state":
		give(rw, req, "states", f.states(ctx, req.FormValue("unitName"), req.FormValue("machineID")))
	case unit != what && req.Method == http.MethodPut:
		f.put(rw, req, unit)
	case unit != what && req.Method == http.MethodDelete:
		f.Etcd.Remove(f.Key("job", unit))
		rw.WriteHeader(http.StatusNoContent)
	default:
		refuse(rw, 404, "")
	}
}

func (f *Fleet) states(ctx context.Context, unit, machine string) (all []any) {
	dir, _, _ := f.Keys.Get(ctx, f.Key("states"))
	slices.SortFunc(dir.Nodes, func(a, b etcd2.Node) int { return strings.Compare(a.Key, b.Key) })
	for _, n := range dir.Nodes {
		slices.SortFunc(n.Nodes, func(a, b etcd2.Node) int { return strings.Compare(a.Key, b.Key) })
		for _, m := range n.Nodes {
			doc := struct{ LoadState, ActiveState, SubState string }{}
			if json.Unmarshal([]byte(m.Value), &doc) != nil || unit != "" && n.Name() != unit || machine != "" && m.Name() != machine {
				continue
			}
			all = append(all, map[string]any{"name": n.Name(), "machineID": m.Name(), "hash": "", "systemdLoadState": doc.LoadState,
				"systemdActiveState": doc.ActiveState, "systemdSubState": doc.SubState})
		}
	}
	return all
}

func (f *Fleet) put(rw http.ResponseWriter, req *http.Request, unit string) {
	doc := struct {
		Options      []Option
		DesiredState string
	}{}
	if req.Header.Get("Content-Type") != "application/json" || json.NewDecoder(req.Body).Decode(&doc) != nil {
		refuse(rw, 400, "unable to decode body")
		return
	}
	if len(doc.Options) > 0 {
		f.Lock()
		f.Files[unit] = doc.Options
		f.Unlock()
		f.Etcd.Set(f.Key("job", unit, "object"), `{"Name":"`+unit+`","UnitHash":[1,2,3]}`)
	}
	f.Etcd.Set(f.Key("job", unit, "target-state"), doc.DesiredState)
	rw.WriteHeader(http.StatusCreated)
}

func (f *Fleet) patch(rw http.ResponseWriter, req *http.Request) {
	ops := []struct {
		Op, Path string
		Value    struct{ Value string }
	}{}
	if err := json.NewDecoder(req.Body).Decode(&ops); err != nil {
		refuse(rw, 400, err.Error())
		return
	}
	for _, op := range ops {
		elem := strings.Split(op.Path, "/")
		if op.Op == "remove" {
			op.Value.Value = ""
			f.Errorf("somebody asked fleet to remove metadata: %s", op.Path)
		}
		f.Etcd.Set(f.Key("machines", elem[1], "metadata", elem[3]), op.Value.Value)
	}
	rw.WriteHeader(http.StatusNoContent)
}

func refuse(rw http.ResponseWriter, code int, message string) {
	rw.WriteHeader(code)
	json.NewEncoder(rw).Encode(map[string]any{"error": map[string]any{"code": code, "message": message}})
}

// give is a page of a list. Its token is base64 of the limit and the page.
func give(rw http.ResponseWriter, req *http.Request, what string, all []any) {
	n := 1
	if token, err := base64.URLEncoding.DecodeString(req.FormValue("nextPageToken")); err == nil && len(token) == 4 {
		n = int(binary.LittleEndian.Uint16(token[2:]))
	}
	doc := map[string]any{what: all[min((n-1)*page, len(all)):min(n*page, len(all))]}
	if n*page <= len(all) {
		token := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, page), uint16(n+1))
		doc["nextPageToken"] = base64.URLEncoding.EncodeToString(token)
	}
	rw.Header().Set("Content-Type", "application/json")
	json.NewEncoder(rw).Encode(doc)
}
