// Transitions of many environments, written to one HDF5 file by a thread of its own.
//
//   append -> queue -> thread -> file
//
//   append      copies one step of all environments into a free slot of a ring that was allocated at the start; it
//               allocates nothing, and waits only while every slot is taken;
//   queue       the ring: queue_capacity slots, one mutex, two condition variables;
//   thread      the only one that touches HDF5, from creating the file to closing it: takes slots, sorts their rows by
//               environment, and flushes every flush_every steps;
//   file        <path>.partial until close() renames it to <path> (see trajectory_file.hpp).
//
// A failure in the thread ends the thread and is kept: every later append() and close() throws it, and callers that
// wait for a slot are woken.
//
// Not fork-safe: a forked child has no such thread and must neither use nor destroy the writer it inherited
// (leaving through _exit, as multiprocessing does, is fine).  Knows nothing about Python.

#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "trajectory_file.hpp"

namespace vintix_fast {

struct WriterStats {
  std::uint64_t max_queue_depth = 0;
  std::uint64_t waits = 0;    // appends that found the queue full
  double wait_seconds = 0.0;  // what they waited together
};

class TrajectoryWriter {
 public:
  // Any thread.  Starts the thread and waits until it has created the partial file.  Throws WriteError.
  explicit TrajectoryWriter(const WriterConfig& config);

  // Any thread, when no other call is running.  Aborts unless the writer was closed.
  ~TrajectoryWriter();

  TrajectoryWriter(const TrajectoryWriter&) = delete;
  TrajectoryWriter& operator=(const TrajectoryWriter&) = delete;

  // Any thread; calls from several threads are written in the order in which they get the queue.
  // arrays[f]: field f of all environments, C-contiguous [num_envs, *shape]; active: [num_envs], 0 leaves a row out.
  // When the queue is full it waits, or returns false, and nothing was taken.
  // Throws WriteError after a failure in the thread, std::invalid_argument after close() or abort().
  bool append(const void* const* arrays, const std::uint8_t* active, bool wait);

  // Any thread; blocks until everything is on disk.  close() gives the file its final name and throws WriteError if
  // it could not; abort() leaves <path>.partial with all rows and never throws.  After either, both do nothing more
  // (close() keeps throwing after a failure).
  void close();
  void abort() noexcept;

  // Any thread.
  WriterStats stats() const;

  const WriterConfig& config() const { return config_; }  // never changes: any thread

 private:
  enum class Ending { none, close, abort };

  [[noreturn]] void throw_failure() const;  // any thread, with queue_mutex_ held
  void end(Ending ending);  // any thread

  // The writer's thread only.
  void run();
  void write_steps(TrajectoryFile& file);
  void remember_failure(const WriteError& error);

  const WriterConfig config_;
  std::vector<std::size_t> offset_{0};  // in a slot, of each field and of the flags
  std::size_t slot_bytes_;
  std::vector<std::byte> ring_;  // [queue_capacity, slot_bytes]

  mutable std::mutex queue_mutex_;  // guards everything down to stats_, and which slots of the ring are taken
  std::condition_variable slot_free_;
  std::condition_variable work_or_state_;  // a step, an ending, or the file is open
  std::size_t head_ = 0;                   // oldest taken slot
  std::size_t depth_ = 0;                  // taken slots
  bool opened_ = false;
  Ending ending_ = Ending::none;
  std::optional<WriteError> failure_;
  WriterStats stats_;

  std::mutex join_mutex_;  // one caller at a time waits for the thread's end
  std::thread thread_;
};

}  // namespace vintix_fast
