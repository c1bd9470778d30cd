// Package wire holds the protocol buffer messages of update payloads, as they stand in the file.
package wire

//go:generate sh -c "protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --go_out=. --go_opt=paths=source_relative v1.proto v2.proto"
