// check_shm: what the tests of shared memory share: children that do something and stay where they
// are until they are killed, or end by themselves; limits; and how much memory a file really has.
#ifndef PYCONC_CHECK_SHM_H
#define PYCONC_CHECK_SHM_H

#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/shm_region.h"

// ---- children ----

typedef struct check_child {
    pid_t pid;
    int said;  // where it says something; at its end when the child is gone, however that came
} check_child;

// Forks a child that runs the function, and says with a byte that it has run.  It dies with its parent.
static inline void
check_fork(check_child *child, void (*run)(void *arg), void *arg)
{
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    pid_t parent = getpid();
    child->pid = fork();
    CHECK(child->pid >= 0);
    if (child->pid == 0) {
        CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        if (getppid() != parent) {
            _exit(EXIT_FAILURE);
        }
        check_guard_child();
        close(ends[0]);
        run(arg);
        CHECK(write(ends[1], "", 1) == 1);
        for (;;) {
            pause();
        }
    }
    // Only the child has it now, so that its end is seen; children that are forked later do not.
    close(ends[1]);
    child->said = ends[0];
}

// Waits until the child's function has returned.
static inline void
check_fork_until_done(check_child *child, void (*run)(void *arg), void *arg)
{
    char byte;
    check_fork(child, run, arg);
    CHECK(read(child->said, &byte, 1) == 1);
}

// The child was killed, or is about to be: waits until it is gone.
static inline void
check_reap(check_child *child)
{
    int status;
    CHECK(waitpid(child->pid, &status, 0) == child->pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(child->said);
}

static inline void
check_kill(check_child *child)
{
    CHECK(kill(child->pid, SIGKILL) == 0);
    check_reap(child);
}

// The child's function ends by itself; whatever it CHECKs must be so.
static inline void
check_finish(check_child *child)
{
    char byte;
    CHECK(read(child->said, &byte, 1) == 1);
    check_kill(child);
}

static inline void
check_in_child(void (*run)(void *arg), void *arg)
{
    check_child child;
    check_fork(&child, run, arg);
    check_finish(&child);
}

// True if the kernel has the child asleep, wherever that is.
static inline bool
check_child_asleep(check_child *child)
{
    char path[64];
    char state = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)child->pid);
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    CHECK(fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
    fclose(file);
    return state == 'S';
}

// ---- limits ----

// Returns what the limit was.
static inline rlim_t
check_limit(int resource, rlim_t value)
{
    struct rlimit limit;
    CHECK(getrlimit(resource, &limit) == 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = value;
    CHECK(setrlimit(resource, &limit) == 0);
    return before;
}

// From here on no file of this process grows beyond so many bytes, and memory files are files.  Python
// ignores the signal, too.
static inline rlim_t
check_limit_files(rlim_t bytes)
{
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    return check_limit(RLIMIT_FSIZE, bytes);
}

// Of address space, in use now.
static inline rlim_t
check_address_space(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL);
    CHECK(fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static inline int
check_count_fds(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    CHECK(folder != NULL);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

// ---- memory ----

// A region for two workers.
static inline void
check_create(shm_region *region)
{
    CHECK_EQ(shm_region_create(region, SHM_PAGE, 3), SHM_OK);
}

// What the system has allocated for the file.
static inline uint64_t
check_memory(int fd)
{
    struct stat info;
    CHECK(fstat(fd, &info) == 0);
    return (uint64_t)info.st_blocks * 512;
}

static inline bool
check_all(const unsigned char *memory, uint64_t bytes, unsigned char value)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (memory[i] != value) {
            return false;
        }
    }
    return true;
}

#endif
