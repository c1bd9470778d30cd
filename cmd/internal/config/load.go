// Package config reads what operators write: the policy file, Flatcar's own
// configuration where that file asks for it, and files of groups. It is the
// only place that knows viper.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	_ "time/tzdata" // zones are judged and obeyed alike on hosts without zoneinfo; costs the program 450 KB

	"github.com/go-viper/mapstructure/v2"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/viper"

	"github.com/drydock-os/drydock/updater/policy"
	"github.com/drydock-os/drydock/updater/state"
)

// DefaultPath is where drydockd looks for its policy.
const DefaultPath = "/etc/drydock/drydock.toml"

// maxFile bounds the bytes of every file read here: the commented example has a
// quarter of it, and hand-written files have no reason to be larger.
const maxFile = 64 << 10

// Load reads the policy in the TOML file at path, over policy.Default. Nothing
// but that file is opened, so that a policy can be judged on any machine, and
// the environment changes nothing.
//
// The error lists every problem, a line each, as FILE:LINE: KEY: what is wrong.
// An unknown key is a problem, with the nearest known one; keys count in lower
// case alone. A missing file is an error that matches fs.ErrNotExist.
//
// With flatcar.read_conf the defaults of [server] stay out, so that Apply sees
// what the file leaves open.
func Load(path string) (policy.Policy, error) {
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return policy.Policy{}, fmt.Errorf("read policy: %w: write one there (the example drydock.toml shows every key), or name another with --config", err)
	}
	if err != nil {
		return policy.Policy{}, fmt.Errorf("read policy: %w", err)
	}
	p, problems := parse(data)
	if len(problems) > 0 {
		return policy.Policy{}, problems.in(path)
	}
	return p, nil
}

// read returns a regular file's content, which must be text.
func read(path string) ([]byte, error) {
	data, err := state.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, fmt.Errorf("%s holds a NUL byte, so it is no text", path)
	}
	return data, nil
}

// LoadHost reads the policy at path for the machine whose files are below root,
// "/" on a host: as Load does, and Flatcar's own files too where the policy says
// flatcar.read_conf. What comes out of both is judged again.
func LoadHost(path, root string) (policy.Policy, error) {
	p, err := Load(path)
	if err != nil || !p.Flatcar.ReadConf {
		return p, err
	}
	f, err := ReadFlatcar(root)
	if err != nil {
		return policy.Policy{}, err
	}
	p = Apply(p, f)
	if err := errors.Join(p.Validate()...); err != nil {
		return policy.Policy{}, fmt.Errorf("apply Flatcar's configuration: %w", err)
	}
	return p, nil
}

// Parse reads the text of a policy file as Load does, and names it in errors.
// With an error the policy is what could be made of the text, for Validate to
// say which values are impossible.
func Parse(name string, data []byte) (policy.Policy, error) {
	p, problems := parse(data)
	if len(problems) > 0 {
		return p, problems.in(name)
	}
	return p, nil
}

// parse decodes and judges a policy file.
func parse(data []byte) (policy.Policy, problems) {
	p := policy.Default()
	s, found := decode(data, knownKeys[policy.Policy](), func(v *viper.Viper) any {
		if v.GetBool("flatcar.read_conf") {
			p.Server = policy.Server{}
		}
		return &p
	})
	if s == nil {
		return policy.Policy{}, found
	}
	return p, s.judge(found, p.Validate())
}

// decode reads a file strictly into what into returns, which may look at the
// values first. The place is nil where nothing was decoded.
func decode(data []byte, k known, into func(*viper.Viper) any) (*place, problems) {
	s, found := survey(data, k)
	if slices.ContainsFunc(found, func(p problem) bool { return p.fatal || misread(p.key) }) {
		return nil, found
	}
	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		return nil, problems{syntax(err)}
	}
	// The survey names unknown keys better than the decoder does. What it did
	// not see still counts.
	err := v.UnmarshalExact(into(v), strictly)
	for _, d := range decodeErrors(err) {
		if !found.below(d.key) {
			found = append(found, s.locate(d))
		}
	}
	return s, found
}

// judge adds what is invalid to what was found, but for values that were found
// wrong already.
func (s *place) judge(found problems, errs []error) problems {
	for _, err := range errs {
		var invalid *policy.Invalid
		if !errors.As(err, &invalid) {
			found = append(found, problem{why: err.Error()})
		} else if !found.touches(invalid.Key) {
			found = append(found, s.locate(problem{key: invalid.Key, why: invalid.Why}))
		}
	}
	return found
}

// misread reports whether viper, which lowers keys and splits them at dots,
// would take an unknown key for another one: what it decodes is not the file.
func misread(key string) bool {
	return strings.ContainsRune(key, '"') || key != strings.ToLower(key)
}

// syntax returns the problem of a file that is no TOML.
func syntax(err error) problem {
	p := problem{why: err.Error()}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		p.why = "is no TOML: " + strip(decode.Error())
		p.line, _ = decode.Position()
	}
	return p
}

// strictly makes viper's decoder take a value only where its type is right.
func strictly(c *mapstructure.DecoderConfig) {
	c.WeaklyTypedInput = false
	c.DecodeHook = mapstructure.DecodeHookFuncType(convert)
}

// decodeErrors returns the leaves of mapstructure's tree of errors.
func decodeErrors(err error) problems {
	var out problems
	switch e := err.(type) {
	case nil:
	case *mapstructure.DecodeError:
		out = problems{{key: e.Name(), why: e.Unwrap().Error()}}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			out = append(out, decodeErrors(inner)...)
		}
	case interface{ Unwrap() error }:
		out = decodeErrors(e.Unwrap())
	default:
		out = problems{{why: e.Error()}}
	}
	return out
}
