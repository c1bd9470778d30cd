package image

func openSquash(m *meter) (node, error) { return nil, ErrFormat }
