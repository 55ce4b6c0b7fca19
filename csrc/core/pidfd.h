// pidfd: a file that stands for a process, and is readable when that has ended.
//
// The two calls by their numbers, as the C library or the headers may be too old to have them.  Both return
// -1, with errno, also where the kernel or a sandbox refuses them.  No Python.
#ifndef PYCONC_PIDFD_H
#define PYCONC_PIDFD_H

#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

// On every machine the same.
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static inline int
pidfd_open_process(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static inline int
pidfd_signal(int pidfd, int signal)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

#endif
