/* fuzz_file.h: libFuzzer's bytes as a file, for readers that take a path. */
#ifndef TESTS_FUZZ_FILE_H
#define TESTS_FUZZ_FILE_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* A file in memory that holds the bytes; its path, for as long as the returned descriptor is open
 */
static inline int fuzz_file(const uint8_t *data, size_t bytes, char path[64])
{
  int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes)
    abort();
  (void)snprintf(path, 64, "/proc/self/fd/%d", fd);
  return fd;
}
#endif
