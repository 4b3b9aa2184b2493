#include "worker_pool.hpp"

namespace vintix_fast {

WorkerPool::WorkerPool(int threads) {
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work_on(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

WorkerPool::~WorkerPool() {
  finish();
  stop();
}

void WorkerPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  something_to_do_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkerPool::start(int items, std::function<void(int, int)> work) {
  {
    const std::lock_guard lock(mutex_);
    work_ = std::move(work);
    next_ = 0;
    items_ = unfinished_ = items;
  }
  something_to_do_.notify_all();
}

void WorkerPool::finish() {
  std::unique_lock lock(mutex_);
  while (take(lock, 0)) {
  }
  all_done_.wait(lock, [this] { return unfinished_ == 0; });
}

void WorkerPool::work_on(int thread) {
  std::unique_lock lock(mutex_);
  while (true) {
    something_to_do_.wait(lock, [this] { return stopping_ || next_ < items_; });
    if (stopping_) return;
    take(lock, thread);
  }
}

bool WorkerPool::take(std::unique_lock<std::mutex>& lock, int thread) {
  if (next_ >= items_) return false;
  const int item = next_++;
  lock.unlock();
  work_(item, thread);
  lock.lock();
  if (--unfinished_ == 0) all_done_.notify_all();
  return true;
}

}  // namespace vintix_fast
