// Preloaded, it makes a disk hang: writes to files whose path matches the glob HANG_FILES do not
// begin as long as the file HANG_WHILE is there.

#include <dlfcn.h>
#include <fnmatch.h>
#include <sys/uio.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>

namespace {

bool is_to_hang(int file) {
  const char* pattern = std::getenv("HANG_FILES");
  char link[64], path[PATH_MAX];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (pattern == nullptr || length < 0) return false;
  path[length] = 0;
  return fnmatch(pattern, path, 0) == 0;
}

template <typename Function, typename... Arguments>
ssize_t late(Function*, const char* name, int file, Arguments... arguments) {
  const char* flag = std::getenv("HANG_WHILE");
  if (flag != nullptr && access(flag, F_OK) == 0 && is_to_hang(file)) {
    while (access(flag, F_OK) == 0) usleep(1000);
  }
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name))(file, arguments...);
}

}  // namespace

extern "C" {

ssize_t write(int file, const void* data, size_t count) {
  return late(&write, "write", file, data, count);
}

ssize_t writev(int file, const iovec* pieces, int count) {
  return late(&writev, "writev", file, pieces, count);
}

ssize_t pwrite(int file, const void* data, size_t count, off_t at) {
  return late(&pwrite, "pwrite", file, data, count, at);
}

ssize_t pwrite64(int file, const void* data, size_t count, off64_t at) {
  return late(&pwrite64, "pwrite64", file, data, count, at);
}

}  // extern "C"
