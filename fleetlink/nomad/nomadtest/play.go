package nomadtest

import "slices"

// Here lists what runs on a node, by name.
func (c *Cluster) Here(name string) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.On(c.Node(name).ID) {
		if !a.clientTerminal() {
			names = append(names, a.Name)
		}
	}
	return names
}

// Hold adds a second allocation to a job, elsewhere, that does not get healthy.
// Its migrate block then lets none leave.
func (c *Cluster) Hold(alloc string) (release func()) {
	var twin *Alloc
	c.Do(func() {
		i := slices.IndexFunc(c.Allocs, func(a *Alloc) bool { return a.Name == alloc && !a.terminal() })
		j := c.Allocs[i].Job
		j.TaskGroups[0].Count = 2
		twin = c.Place(j, c.Node("b"), 1)
		twin.Sick = true
	})
	return func() { c.Do(func() { twin.Sick = false; c.TouchAlloc(twin) }) }
}

// Down has a node's heartbeats stay away, and its agent not answer.
func (c *Cluster) Down(name string) {
	c.Do(func() {
		n := c.Node(name)
		n.Status, n.StatusDescription, n.Mute = "down", "heartbeat missed", true
		c.say("node %s is down", n.Name)
		c.Touch(n)
		for _, a := range c.On(n.ID) {
			if !a.terminal() && a.JobType != "system" {
				a.ClientStatus = "lost"
				c.TouchAlloc(a)
			}
		}
	})
}

// Up has the node's agent come back after a boot: what it is to run is started.
func (c *Cluster) Up(name string) {
	c.Do(func() {
		n := c.Node(name)
		n.Status, n.StatusDescription, n.Mute = "ready", "", false
		c.say("node %s is ready", n.Name)
		c.Touch(n)
		for _, a := range c.On(n.ID) {
			if !a.terminal() {
				a.ClientStatus = "pending"
				c.TouchAlloc(a)
			}
		}
	})
}
