package partition

func (d *osBootDir) Sync() error { return d.syncDir(".") }
