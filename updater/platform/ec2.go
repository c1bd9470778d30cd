package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// maxToken bounds the token, which goes into a header; EC2's have 56 bytes.
const maxToken = 1 << 10

// ec2 reads the instance identity document by version 2 of EC2's instance
// metadata service (Amazon EC2 User Guide, "Use the Instance Metadata Service to
// access instance metadata"; "Instance identity documents"). Each attempt has a
// token of its own: one that is over is no special case.
func (s Source) ec2(ctx context.Context) (Facts, error) {
	service, err := s.service()
	if err != nil {
		return Facts{}, err
	}
	var f Facts
	err = service.try(ctx, func() error {
		token, err := service.token(ctx)
		if err != nil {
			return err
		}
		const path = "/latest/dynamic/instance-identity/document"
		data, err := service.do(ctx, http.MethodGet, path, http.Header{"X-Aws-Ec2-Metadata-Token": {token}})
		if err == nil {
			f, err = identity("GET "+service.base+path, data)
		}
		return err
	})
	return f, err
}

// token begins a session of a minute, far longer than one attempt.
func (s *service) token(ctx context.Context) (string, error) {
	const path = "/latest/api/token"
	data, err := s.do(ctx, http.MethodPut, path, http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"60"}})
	var status *statusError
	if errors.As(err, &status) {
		switch status.code {
		case http.StatusForbidden:
			return "", fmt.Errorf("%w: the instance's metadata service is turned off (aws ec2 modify-instance-metadata-options --http-endpoint enabled)", err)
		case http.StatusNotFound, http.StatusMethodNotAllowed:
			return "", fmt.Errorf("%w: it knows no sessions (IMDSv2); is this EC2?", err)
		}
	}
	if err != nil {
		return "", err
	}
	for _, c := range data {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("PUT %s%s: %w: the token is not one", s.base, path, errAnswer)
		}
	}
	if len(data) == 0 || len(data) > maxToken {
		return "", fmt.Errorf("PUT %s%s: %w: a token of %d bytes", s.base, path, errAnswer, len(data))
	}
	return string(data), nil
}

// identity reads the document, and says in errors where it is from.
func identity(from string, data []byte) (Facts, error) {
	var d struct {
		Zone     string `json:"availabilityZone"`
		Region   string `json:"region"`
		Instance string `json:"instanceId"`
		Type     string `json:"instanceType"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return Facts{}, fmt.Errorf("%s: %w: %w", from, errAnswer, err)
	}
	f := Facts{Zone: d.Zone, Region: d.Region, InstanceID: d.Instance, InstanceType: d.Type}
	switch {
	case f.InstanceID == "":
		return Facts{}, fmt.Errorf("%s: %w: it names no instance", from, errAnswer)
	case f.Zone == "":
		return f, fmt.Errorf("%s: %w: %w", from, errAnswer, errNoZone)
	}
	return f, nil
}
