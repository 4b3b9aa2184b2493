// A few threads that share out numbered items of work: decoding, attention and losses all run in it.
//
// start() -> workers take items -> finish() takes what is left.
//
// start() and finish() belong to one thread, the caller, who may do something else between them.  The work must not
// throw.  Not to be used, nor destroyed, in a forked child: the workers are not there.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace vintix_fast {

class WorkerPool {
 public:
  // threads: who works in finish(), the caller included; with 1 nothing happens before it.  Throws std::system_error
  // where the system has no more.
  explicit WorkerPool(int threads) : WorkerPool() {  // so that the destructor stops those that it has, if one fails
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work_on(thread); });
  }
  ~WorkerPool() {
    finish();
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    something_to_do_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // work(item, thread) for every item from 0 to items; thread is from 0 (the caller) to threads().
  void start(int items, std::function<void(int, int)> work) {
    {
      const std::lock_guard lock(mutex_);
      work_ = std::move(work);
      next_ = 0;
      items_ = unfinished_ = items;
    }
    something_to_do_.notify_all();
  }

  // Takes items itself until there is none left, and waits for those that the workers took.
  void finish() {
    std::unique_lock lock(mutex_);
    while (next_ < items_) take(lock, 0);
    all_done_.wait(lock, [this] { return unfinished_ == 0; });
  }

  // start() and finish().
  void run(int items, std::function<void(int, int)> work) {
    start(items, std::move(work));
    finish();
  }

 private:
  WorkerPool() = default;

  void work_on(int thread) {
    std::unique_lock lock(mutex_);
    while (true) {
      something_to_do_.wait(lock, [this] { return stopping_ || next_ < items_; });
      if (stopping_) return;
      take(lock, thread);
    }
  }

  void take(std::unique_lock<std::mutex>& lock, int thread) {
    const int item = next_++;
    lock.unlock();
    work_(item, thread);
    lock.lock();
    if (--unfinished_ == 0) all_done_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable something_to_do_, all_done_;
  std::function<void(int, int)> work_;
  int next_ = 0, items_ = 0, unfinished_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace vintix_fast
