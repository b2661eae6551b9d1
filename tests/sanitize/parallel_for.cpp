// torch's parallel loop with a std::thread a part, to be loaded before torch's own: ThreadSanitizer does not
// see through the OpenMP library that torch brings, and would take every handing over of work for a race.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

constexpr int64_t kThreads = 4;

extern "C" int32_t torch_get_num_threads(uint32_t* count) {
  *count = kThreads;
  return 0;
}

extern "C" int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain,
                                      void (*body)(int64_t begin, int64_t end, void* context),
                                      void* context) {
  const int64_t parts = std::clamp((end - begin) / std::max<int64_t>(grain, 1), int64_t(1), kThreads);
  std::vector<std::thread> workers;
  for (int64_t i = 1; i < parts; ++i)
    workers.emplace_back(body, begin + (end - begin) * i / parts, begin + (end - begin) * (i + 1) / parts,
                         context);
  if (begin < end) body(begin, begin + (end - begin) / parts, context);
  for (auto& worker : workers) worker.join();
  return 0;
}
