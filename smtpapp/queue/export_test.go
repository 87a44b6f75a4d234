package queue

// Loading reports that the store is still being read.
func (q *Queue) Loading() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.loading != nil
}
