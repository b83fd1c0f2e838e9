/* A file system with what some lack, below MOUNT_ROOT, for a process that has this in LD_PRELOAD:
 *
 *   MOUNT_RENAME=<errno>      renames of folders fail
 *   MOUNT_RENAME_ALL=<errno>  all renames fail
 *   MOUNT_FSYNC=<errno>       so does fsync
 *   MOUNT_FLOCK=<errno>       so does flock, on any file
 *   MOUNT_FOLDS=1             names that differ in case are one name; it is kept in lower case
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int number(const char *name) {
  const char *value = getenv(name);
  return value ? atoi(value) : 0;
}

static int below(const char *path) {
  const char *root = getenv("MOUNT_ROOT");
  size_t length = root ? strlen(root) : 0;
  return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* The whole path of what a call names. */
static const char *whole(int folder, const char *path, char *buffer) {
  char link[64];
  ssize_t length;
  if (path[0] == '/') return path;
  snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
  length = ((ssize_t(*)(const char *, char *, size_t))dlsym(RTLD_NEXT, "readlink"))(link, buffer, PATH_MAX);
  if (length < 0) return path;
  snprintf(buffer + length, PATH_MAX - length, "/%s", path);
  return buffer;
}

static const char *folded(int folder, const char *path, char *buffer) {
  char at[2 * PATH_MAX];
  const char *is;
  size_t kept;
  if (!path || !number("MOUNT_FOLDS") || !below(is = whole(folder, path, at))) return path;
  kept = strlen(getenv("MOUNT_ROOT"));
  snprintf(buffer, PATH_MAX, "%s", is);
  for (char *c = buffer + kept; *c; c++)
    if (*c >= 'A' && *c <= 'Z') *c += 'a' - 'A';
  return buffer;
}

static int refuses_rename(int folder, const char *path) {
  char buffer[2 * PATH_MAX];
  struct stat info;
  int all = number("MOUNT_RENAME_ALL"), refusal = number("MOUNT_RENAME");
  const char *is = whole(folder, path, buffer);
  if (!(all || refusal) || !below(is) || lstat(is, &info) || !(all || S_ISDIR(info.st_mode))) return 0;
  errno = all ? all : refusal;
  return 1;
}

#define FOLD(path) \
  char path##_buffer[PATH_MAX]; \
  path = folded(AT_FDCWD, path, path##_buffer)
#define FOLD_AT(folder, path) \
  char path##_buffer[PATH_MAX]; \
  path = folded(folder, path, path##_buffer)

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = va_arg(more, mode_t); \
    va_end(more); \
    FOLD(path); \
    return REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = va_arg(more, mode_t); \
    va_end(more); \
    FOLD_AT(folder, path); \
    return REAL(name)(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define STAT(name, info) \
  int name(const char *path, struct info *to) { \
    FOLD(path); \
    return REAL(name)(path, to); \
  }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
#define FSTATAT(name, info) \
  int name(int folder, const char *path, struct info *to, int flags) { \
    if (!*path) return REAL(name)(folder, path, to, flags); \
    FOLD_AT(folder, path); \
    return REAL(name)(folder, path, to, flags); \
  }
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)

int mkdir(const char *path, mode_t mode) {
  FOLD(path);
  return REAL(mkdir)(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
  FOLD_AT(folder, path);
  return REAL(mkdirat)(folder, path, mode);
}
int rmdir(const char *path) {
  FOLD(path);
  return REAL(rmdir)(path);
}
int unlink(const char *path) {
  FOLD(path);
  return REAL(unlink)(path);
}
int unlinkat(int folder, const char *path, int flags) {
  FOLD_AT(folder, path);
  return REAL(unlinkat)(folder, path, flags);
}
DIR *opendir(const char *path) {
  FOLD(path);
  return REAL(opendir)(path);
}
ssize_t readlink(const char *path, char *to, size_t size) {
  FOLD(path);
  return REAL(readlink)(path, to, size);
}
int symlink(const char *says, const char *path) {
  FOLD(path);
  return REAL(symlink)(says, path);
}
int link(const char *from, const char *path) {
  FOLD(from);
  FOLD(path);
  return REAL(link)(from, path);
}
int chmod(const char *path, mode_t mode) {
  FOLD(path);
  return REAL(chmod)(path, mode);
}
int rename(const char *from, const char *path) {
  if (refuses_rename(AT_FDCWD, from)) return -1;
  FOLD(from);
  FOLD(path);
  return REAL(rename)(from, path);
}
int renameat(int here, const char *from, int there, const char *path) {
  if (refuses_rename(here, from)) return -1;
  FOLD_AT(here, from);
  FOLD_AT(there, path);
  return REAL(renameat)(here, from, there, path);
}
int fsync(int opened) {
  char path[PATH_MAX];
  int refusal = number("MOUNT_FSYNC");
  if (!refusal || !below(whole(opened, "", path))) return REAL(fsync)(opened);
  errno = refusal;
  return -1;
}
int flock(int opened, int how) {
  int refusal = number("MOUNT_FLOCK");
  if (!refusal) return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(opened, how);
  errno = refusal;
  return -1;
}
