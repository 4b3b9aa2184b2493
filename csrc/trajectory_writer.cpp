#include "trajectory_writer.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>

namespace vintix_fast {
namespace {

using Clock = std::chrono::steady_clock;

// Not every HDF5 is built thread-safe, and a process may have several writers.
std::mutex& hdf5_mutex() {
  static auto* mutex = new std::mutex;  // never destroyed: a thread may outlive main
  return *mutex;
}

}  // namespace

TrajectoryWriter::TrajectoryWriter(const WriterConfig& config) : config_(config) {
  for (const Field& field : config_.fields) offset_.push_back(offset_.back() + config_.num_envs * field.row_bytes());
  slot_bytes_ = offset_.back() + config_.num_envs;
  ring_.resize(config_.queue_capacity * slot_bytes_);

  thread_ = std::thread(&TrajectoryWriter::run, this);
  std::unique_lock lock(queue_mutex_);
  work_or_state_.wait(lock, [this] { return opened_ || failure_; });
  if (failure_) {
    lock.unlock();
    thread_.join();
    throw_failure();
  }
}

TrajectoryWriter::~TrajectoryWriter() { abort(); }

// ------------------------------------------------------------------------------------------------- the callers' side

void TrajectoryWriter::throw_failure() const {
  throw WriteError("cannot write " + config_.partial_path() + ": " + failure_->what(), failure_->error_number);
}

bool TrajectoryWriter::append(const void* const* arrays, const std::uint8_t* active, bool wait) {
  std::unique_lock lock(queue_mutex_);
  if (depth_ == config_.queue_capacity && !failure_ && ending_ == Ending::none) {
    if (!wait) return false;
    const auto start = Clock::now();
    ++stats_.waits;
    slot_free_.wait(lock, [this] {
      return depth_ < config_.queue_capacity || failure_ || ending_ != Ending::none;
    });
    stats_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }
  if (failure_) throw_failure();
  if (ending_ != Ending::none) throw std::invalid_argument("append: the writer of " + config_.path + " is closed");

  std::byte* slot = ring_.data() + (head_ + depth_) % config_.queue_capacity * slot_bytes_;
  for (std::size_t f = 0; f < config_.fields.size(); ++f) {
    std::memcpy(slot + offset_[f], arrays[f], offset_[f + 1] - offset_[f]);
  }
  std::memcpy(slot + offset_.back(), active, config_.num_envs);
  ++depth_;
  stats_.max_queue_depth = std::max<std::uint64_t>(stats_.max_queue_depth, depth_);
  work_or_state_.notify_one();
  return true;
}

void TrajectoryWriter::end(Ending ending) {
  {
    const std::lock_guard lock(queue_mutex_);
    if (ending_ == Ending::none) ending_ = ending;
  }
  work_or_state_.notify_all();
  slot_free_.notify_all();
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void TrajectoryWriter::close() {
  end(Ending::close);
  const std::lock_guard lock(queue_mutex_);
  if (failure_ && ending_ == Ending::close) throw_failure();
}

void TrajectoryWriter::abort() noexcept { end(Ending::abort); }

WriterStats TrajectoryWriter::stats() const {
  const std::lock_guard lock(queue_mutex_);
  return stats_;
}

// ------------------------------------------------------------------------------------------------- the thread's side

void TrajectoryWriter::run() {
  // On failure the file is left as it is: ~TrajectoryFile does not close it.
  std::unique_ptr<TrajectoryFile> file;
  try {
    {
      const std::lock_guard hdf5_lock(hdf5_mutex());
      H5dont_atexit();                           // at exit HDF5 would close files under a running thread
      H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // errors become exceptions; print nothing
      file = std::make_unique<TrajectoryFile>(config_);
    }
    {
      const std::lock_guard lock(queue_mutex_);
      opened_ = true;
    }
    work_or_state_.notify_all();
    write_steps(*file);
  } catch (const WriteError& error) {
    remember_failure(error);
  } catch (const std::exception& error) {
    remember_failure(WriteError(error.what(), 0));
  }
}

void TrajectoryWriter::write_steps(TrajectoryFile& file) {
  std::vector<const std::byte*> arrays(config_.fields.size());
  while (true) {
    std::unique_lock lock(queue_mutex_);
    work_or_state_.wait(lock, [this] { return depth_ > 0 || ending_ != Ending::none; });
    if (depth_ == 0) break;
    const std::byte* slot = ring_.data() + head_ * slot_bytes_;
    lock.unlock();

    for (std::size_t f = 0; f < arrays.size(); ++f) arrays[f] = slot + offset_[f];
    file.add_step(arrays, reinterpret_cast<const std::uint8_t*>(slot + offset_.back()));

    lock.lock();
    head_ = (head_ + 1) % config_.queue_capacity;
    --depth_;
    lock.unlock();
    slot_free_.notify_one();
    if (file.steps_since_flush() == config_.flush_every) {
      const std::lock_guard hdf5_lock(hdf5_mutex());
      file.flush();
    }
  }
  // No append gets in any more: ending_ is set.
  const std::lock_guard hdf5_lock(hdf5_mutex());
  if (ending_ == Ending::close) {
    file.finish();
  } else {
    file.close_partial();
  }
}

void TrajectoryWriter::remember_failure(const WriteError& error) {
  {
    const std::lock_guard lock(queue_mutex_);
    failure_ = error;
  }
  work_or_state_.notify_all();
  slot_free_.notify_all();
}

}  // namespace vintix_fast
