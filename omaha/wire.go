package omaha

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
)

// The messages as they are on the wire. The order of fields is the order in
// which upstream writes attributes and elements.

const (
	statusOK       = "ok"
	statusNoUpdate = "noupdate"
	statusInternal = "error-internal"
	statusUnknown  = "error-unknownApplication"

	protocol       = "3.0"
	sourceOnDemand = "ondemandupdate"
	sourceSchedule = "scheduler"
)

type wireRequest struct {
	XMLName        xml.Name  `xml:"request"`
	Protocol       string    `xml:"protocol,attr"`
	Version        string    `xml:"version,attr"`
	UpdaterVersion string    `xml:"updaterversion,attr"`
	InstallSource  string    `xml:"installsource,attr"`
	IsMachine      string    `xml:"ismachine,attr"`
	OS             wireOS    `xml:"os"`
	Apps           []wireApp `xml:"app"`
}

type wireOS struct {
	Version  string `xml:"version,attr"`
	Platform string `xml:"platform,attr"`
	SP       string `xml:"sp,attr"`
	Arch     string `xml:"arch,attr,omitempty"` // not upstream's, but other clients send it
}

type wireApp struct {
	AppID         string      `xml:"appid,attr"`
	Version       string      `xml:"version,attr"`
	Track         string      `xml:"track,attr"`
	BootID        string      `xml:"bootid,attr"`
	OEM           string      `xml:"oem,attr"`
	OEMVersion    string      `xml:"oemversion,attr"`
	AlephVersion  string      `xml:"alephversion,attr"`
	MachineID     string      `xml:"machineid,attr"`
	MachineAlias  string      `xml:"machinealias,attr"`
	Lang          string      `xml:"lang,attr"`
	Board         string      `xml:"board,attr"`
	HardwareClass string      `xml:"hardware_class,attr"`
	DeltaOK       string      `xml:"delta_okay,attr"`
	Ping          *wirePing   `xml:"ping"`
	Check         *struct{}   `xml:"updatecheck"`
	Events        []wireEvent `xml:"event"`
}

type wirePing struct {
	Active string `xml:"active,attr,omitempty"`
}

type wireEvent struct {
	Type            string  `xml:"eventtype,attr"`
	Result          string  `xml:"eventresult,attr"`
	ErrorCode       string  `xml:"errorcode,attr,omitempty"`
	PreviousVersion *string `xml:"previousversion,attr"`
}

type wireResponse struct {
	XMLName  xml.Name          `xml:"response"`
	Protocol string            `xml:"protocol,attr"`
	Server   string            `xml:"server,attr"`
	DayStart *wireDayStart     `xml:"daystart"`
	Apps     []wireAppResponse `xml:"app"`
}

type wireDayStart struct {
	ElapsedSeconds string `xml:"elapsed_seconds,attr"`
}

type wireAppResponse struct {
	AppID  string             `xml:"appid,attr"`
	Status string             `xml:"status,attr"`
	Ping   *wireStatus        `xml:"ping"`
	Checks []wireUpdateStatus `xml:"updatecheck"`
	Events []wireStatus       `xml:"event"`
}

type wireStatus struct {
	Status string `xml:"status,attr"`
}

type wireUpdateStatus struct {
	Status       string         `xml:"status,attr"`
	PollInterval string         `xml:"PollInterval,attr,omitempty"`
	URLs         *wireURLs      `xml:"urls"`
	Manifests    []wireManifest `xml:"manifest"`
}

type wireURLs struct {
	URLs []wireURL `xml:"url"`
}

type wireURL struct {
	Codebase string `xml:"codebase,attr"`
}

type wireManifest struct {
	Version  string        `xml:"version,attr"`
	Packages []wirePackage `xml:"packages>package"`
	Actions  []wireAction  `xml:"actions>action"`
}

type wirePackage struct {
	Name     string `xml:"name,attr"`
	Hash     string `xml:"hash,attr,omitempty"`
	SHA256   string `xml:"hash_sha256,attr,omitempty"`
	Size     string `xml:"size,attr"`
	Required string `xml:"required,attr,omitempty"`
}

type wireAction struct {
	Event          string `xml:"event,attr"`
	SHA256         string `xml:"sha256,attr,omitempty"`
	Delta          string `xml:"IsDeltaPayload,attr,omitempty"`
	DisableBackoff string `xml:"DisablePayloadBackoff,attr,omitempty"`
	MaxFailures    string `xml:"MaxFailureCountPerUrl,attr,omitempty"`
}

// encode writes a message with upstream's indentation. encoding/xml escapes
// every attribute value, quotes included, and replaces what XML cannot hold.
func encode(message any) ([]byte, error) {
	body, err := xml.MarshalIndent(message, "", "    ")
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return append([]byte(xml.Header), append(body, '\n')...), nil
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func (m Machine) wire() (wireOS, wireApp) {
	os := wireOS{
		Version:  or(m.OSVersion, "Chateau"),
		Platform: or(m.OSPlatform, "CoreOS"),
		SP:       m.Version + "_" + m.Arch,
	}
	return os, wireApp{
		AppID: m.AppID, Version: m.Version, Track: m.Track, BootID: m.BootID,
		OEM: m.OEM, OEMVersion: m.OEMVersion, AlephVersion: m.AlephVersion,
		MachineID: m.MachineID, MachineAlias: m.MachineAlias,
		Lang: or(m.Lang, "en-US"), Board: m.Board, HardwareClass: m.HardwareClass,
		DeltaOK: strconv.FormatBool(m.DeltaOK),
	}
}

func (e Event) wire() wireEvent {
	w := wireEvent{
		Type:            strconv.Itoa(int(e.Type)),
		Result:          strconv.Itoa(int(e.Result)),
		PreviousVersion: e.PreviousVersion,
	}
	if e.PreviousVersion == nil && e.Result != ResultSuccess {
		w.ErrorCode = strconv.Itoa(e.ErrorCode)
	}
	return w
}

func (w wireEvent) event() (Event, error) {
	e := Event{PreviousVersion: w.PreviousVersion}
	typ, err := strconv.ParseInt(w.Type, 10, 32)
	if err != nil {
		return e, fmt.Errorf("event type: %w", err)
	}
	result, err := strconv.ParseInt(w.Result, 10, 32)
	if err != nil {
		return e, fmt.Errorf("event result: %w", err)
	}
	e.Type, e.Result = EventType(typ), EventResult(result)
	if w.ErrorCode != "" {
		code, err := strconv.ParseInt(w.ErrorCode, 10, 64)
		if err != nil || code < -1<<31 || code >= 1<<32 {
			return e, fmt.Errorf("event error code %q is not a 32-bit number", w.ErrorCode)
		}
		e.ErrorCode = FromWire(int(code)).Wire()
	}
	return e, nil
}

func (w wireApp) app(r wireRequest) (App, error) {
	arch := r.OS.Arch
	if arch == "" {
		arch = strings.TrimPrefix(strings.TrimPrefix(r.OS.SP, w.Version), "_")
	}
	a := App{
		Machine: Machine{
			AppID: w.AppID, Version: w.Version, Track: w.Track, BootID: w.BootID,
			OEM: w.OEM, OEMVersion: w.OEMVersion, AlephVersion: w.AlephVersion,
			MachineID: w.MachineID, MachineAlias: w.MachineAlias,
			Board: w.Board, Lang: w.Lang, HardwareClass: w.HardwareClass,
			OSPlatform: r.OS.Platform, OSVersion: r.OS.Version, Arch: arch,
			DeltaOK: w.DeltaOK == "true",
		},
		Updater:  or(r.UpdaterVersion, r.Version),
		OnDemand: r.InstallSource == sourceOnDemand,
		Ping:     w.Ping != nil,
		Check:    w.Check != nil,
	}
	for _, we := range w.Events {
		e, err := we.event()
		if err != nil {
			return a, err
		}
		a.Events = append(a.Events, e)
	}
	return a, nil
}
