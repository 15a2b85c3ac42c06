package main

import (
	"errors"

	"github.com/tidwall/btree"
)

// committer stands before the engines that have none: it takes all waiting creates, checks them against an index in
// memory, gives them revisions, and writes one batch.
type committer struct {
	engine   engine
	queue    chan create
	done     chan struct{}
	index    btree.Map[string, [2]int64]
	revision int64
}

type create struct {
	write
	answer chan error
}

func newCommitter(e engine) (database, error) {
	c := &committer{engine: e, queue: make(chan create, 512), done: make(chan struct{}), revision: 1}
	err := e.each(func(key string, revision, created int64) {
		c.index.Set(key, [2]int64{revision, created})
		c.revision = max(c.revision, revision)
	})
	if err != nil {
		return nil, err
	}
	go c.run()
	return c, nil
}

func (c *committer) create(key string, value []byte) error {
	w := create{write{key: key, value: value}, make(chan error, 1)}
	c.queue <- w
	return <-w.answer
}

func (c *committer) close() error {
	close(c.queue)
	<-c.done
	return c.engine.close()
}

func (c *committer) run() {
	defer close(c.done)
	for first := range c.queue {
		waiting := []create{first}
	more:
		for len(waiting) < 4096 {
			select {
			case w, ok := <-c.queue:
				if !ok {
					break more
				}
				waiting = append(waiting, w)
			default:
				break more
			}
		}
		var batch []write
		var answers []chan error
		for _, w := range waiting {
			if _, exists := c.index.Get(w.key); exists {
				w.answer <- errors.New("key exists")
				continue
			}
			c.revision++
			w.revision, w.created = c.revision, c.revision
			batch, answers = append(batch, w.write), append(answers, w.answer)
		}
		err := c.engine.write(batch)
		for i, w := range batch {
			if err == nil {
				c.index.Set(w.key, [2]int64{w.revision, w.created})
			}
			answers[i] <- err
		}
	}
}
