#include "process_control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/pidfd.h"
#include "core/server_sockets.h"

// Whether a child's parent has ended: whoever is its parent now may have adopted it.
static bool
has_lost(long parent)
{
    pid_t now = getppid();
    return now >= 0 && now != parent;  // negative: a sandbox refuses the question
}

// In the child of a fork, with all signals blocked: sleep until something comes by `fd`.  End with the
// connection, of which `other_end` is the parent's, or with the parent.  `left` is what another process may
// wait for this one to close, or -1.
//
// What would call a handler of the program meanwhile is dropped, as that could write to a file which the two
// processes share; SIGTERM ends the process, and what else has no handler acts as ever.  `mask` is what the
// program blocks.
static void
sleep_until_asked(int fd, int other_end, int left, pid_t parent, const char *name,
                  const sigset_t *mask)
{
    (void)prctl(PR_SET_NAME, name);
    (void)dup3(fd, other_end, O_CLOEXEC);  // Python closes that number, and the next
    if (left >= 0) {
        (void)dup3(fd, left, O_CLOEXEC);
    }
    sigset_t handled, blocked = *mask;
    sigemptyset(&handled);
    (void)signal(SIGTERM, SIG_DFL);
    for (int number = 1; number < NSIG; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) == 0
            && ((action.sa_flags & SA_SIGINFO) != 0
                || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN))) {
            sigaddset(&handled, number);
            sigaddset(&blocked, number);
        }
    }
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    int parent_fd = pidfd_open_process(parent);  // without one the end of the connection tells
    if (has_lost(parent)) {
        _exit(0);
    }
    struct pollfd files[] = {{.fd = fd, .events = POLLIN}, {.fd = parent_fd, .events = POLLIN}};
    while (poll(files, 2, -1) < 0 && errno == EINTR) {
    }
    if ((files[0].revents & POLLHUP) != 0 || files[1].revents != 0) {
        _exit(0);
    }
    if (parent_fd >= 0) {
        close(parent_fd);
    }
    const struct timespec now = {0};
    while (sigtimedwait(&handled, NULL, &now) > 0) {
    }
}

PyDoc_STRVAR(fork_doc,
"fork(leaves_servers, left, fd=-1, other_end=-1, name='', /)\n--\n\n"
"Fork as os.fork() does, but without its warning when there are threads: for a caller that knows\n"
"that those hold no lock. Returns 0 in the child.\n\n"
"leaves_servers: the child lets go of sockets that listen, and of connections that were accepted.\n\n"
"With a connection, of which `other_end` is the parent's, the child sleeps until something comes by `fd`;\n"
"it ends when the connection does, or the parent. Until then nothing of Python runs in it, no handlers of\n"
"forks either, so it has hardly a page of its own. ps and top call it by the name. It has not got the file\n"
"`left`, if that is not -1: the number is to be closed when the child is asked.");

static PyObject *
control_fork(PyObject *Py_UNUSED(module), PyObject *args)
{
    int leaves_servers, left, fd = -1, other_end = -1;
    const char *name = "";
    if (!PyArg_ParseTuple(args, "pi|iis:fork", &leaves_servers, &left, &fd, &other_end, &name)
        || PySys_Audit("os.fork", NULL) < 0) {
        return NULL;
    }
    pid_t parent = getpid();
    sigset_t all, mask;
    PyOS_BeforeFork();
    if (fd >= 0) {
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &mask);
    }
    pid_t pid = fork();
    int error = errno;
    if (pid == 0 && leaves_servers) {
        server_sockets_leave();
    }
    if (fd >= 0) {
        if (pid == 0) {
            sleep_until_asked(fd, other_end, left, parent, name, &mask);
        }
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
    }
    if (pid == 0) {
        PyOS_AfterFork_Child();
    }
    else {
        PyOS_AfterFork_Parent();
    }
    if (pid < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(pid);
}

PyDoc_STRVAR(fork_pair_doc,
"fork_pair(leaves_servers, left, fd, other_end, name, /)\n--\n\n"
"Fork as fork() does, and at once a second child, as fork(left, fd, other_end, name) does: they have the\n"
"same, and handlers of forks, which have this process copy many of its pages, run here once. Return the\n"
"first child's pid and pidfd, and the second one's pid; that is 0 in the second child, when it was asked,\n"
"and the first pid in the first. Without a pidfd, or room for a second child, there is none: those are -1.");

static PyObject *
control_fork_pair(PyObject *Py_UNUSED(module), PyObject *args)
{
    int leaves_servers, left, fd, other_end;
    const char *name;
    if (!PyArg_ParseTuple(args, "piiis:fork_pair", &leaves_servers, &left, &fd, &other_end, &name)
        || PySys_Audit("os.fork", NULL) < 0 || PySys_Audit("os.fork", NULL) < 0) {
        return NULL;
    }
    pid_t parent = getpid();
    sigset_t all, mask;
    PyOS_BeforeFork();
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &mask);
    pid_t pid = fork(), second = -1;
    int error = errno, pidfd = -1;
    if (pid > 0 && (pidfd = pidfd_open_process(pid)) >= 0) {
        second = fork();
    }
    if ((pid == 0 || second == 0) && leaves_servers) {
        server_sockets_leave();
    }
    if (second == 0) {
        sleep_until_asked(fd, other_end, left, parent, name, &mask);
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (pid == 0 || second == 0) {
        PyOS_AfterFork_Child();
    }
    else {
        PyOS_AfterFork_Parent();
    }
    if (pid < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("iii", (int)pid, pidfd, (int)second);
}

PyDoc_STRVAR(die_with_parent_doc,
"die_with_parent(parent, /)\n--\n\n"
"Have the kernel kill this process when the thread ends that has forked it, of the process `parent`: at\n"
"once if that has ended already.");

static PyObject *
control_die_with_parent(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long parent = PyLong_AsLong(arg);
    if (parent == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (has_lost(parent)) {
        raise(SIGKILL);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(keep_death_signal_doc,
"keep_death_signal()\n--\n\n"
"Leave as it is what die_with_parent() sets. Raises OSError if the system refuses that.");

static PyObject *
control_keep_death_signal(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    int number;
    if (prctl(PR_GET_PDEATHSIG, &number) < 0 || prctl(PR_SET_PDEATHSIG, number) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(try_poll_doc,
"try_poll()\n--\n\n"
"Raise OSError if the system refuses poll(), by which a result handler waits. Since Python 3.15\n"
"select.poll() makes another call, ppoll().");

static PyObject *
control_try_poll(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (poll(NULL, 0, 0) < 0 && errno != EINTR) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(die_with_pipe_doc,
"die_with_pipe(fd, /)\n--\n\n"
"Have the kernel kill this process when nobody has the other end of a pipe open any more.");

static PyObject *
control_die_with_pipe(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = PyObject_AsFileDescriptor(arg);
    if (fd < 0) {
        return NULL;
    }
    // The signal that the kernel sends when something happens to the file, which is only its end.
    if (fcntl(fd, F_SETOWN, getpid()) < 0 || fcntl(fd, F_SETSIG, SIGKILL) < 0
        || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    if (poll(&ended, 1, 0) > 0) {
        raise(SIGKILL);  // it was quicker
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(open_pidfd_doc,
"open_pidfd(pid, /)\n--\n\n"
"Return a file descriptor that is readable when the process has ended. os.pidfd_open() does the same, but\n"
"not every build of Python has it.");

static PyObject *
control_open_pidfd(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long pid = PyLong_AsLong(arg);
    if (pid == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int fd = pidfd_open_process((pid_t)pid);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

PyDoc_STRVAR(reap_doc,
"reap(pid, options, /)\n--\n\n"
"Wait for a child as os.wait4() does, which would import `resource`; return its pid, or 0 if it lives, its\n"
"wait status, and how many bytes it has had in memory at most.");

static PyObject *
control_reap(PyObject *Py_UNUSED(module), PyObject *args)
{
    int pid, options, status = 0;
    if (!PyArg_ParseTuple(args, "ii:reap", &pid, &options)) {
        return NULL;
    }
    struct rusage usage = {.ru_maxrss = 0};
    pid_t ended;
    do {
        Py_BEGIN_ALLOW_THREADS
        ended = wait4(pid, &status, options, &usage);
        Py_END_ALLOW_THREADS
        if (ended >= 0) {
            return Py_BuildValue("iiL", (int)ended, status, 1024LL * usage.ru_maxrss);
        }
    } while (errno == EINTR && PyErr_CheckSignals() == 0);
    return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(open_stream_doc,
"open_stream()\n--\n\n"
"Return the file descriptors of both ends of a new stream, which programs that are executed do not get.\n\n"
"socket.socketpair() makes the same, and asks the kernel four times more about it.");

static PyObject *
control_open_stream(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("ii", ends[0], ends[1]);
}

PyDoc_STRVAR(wait_readable_doc,
"wait_readable(fd, seconds, /)\n--\n\n"
"Wait until a file is readable, but not longer than that; return whether it is. Unlike select.poll() it\n"
"counts less than milliseconds. A signal ends the wait.");

static PyObject *
control_wait_readable(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    double seconds;
    if (!PyArg_ParseTuple(args, "id:wait_readable", &fd, &seconds)) {
        return NULL;
    }
    struct timespec limit = {.tv_sec = (time_t)seconds};
    limit.tv_nsec = (long)((seconds - (double)limit.tv_sec) * 1e9);
    struct pollfd file = {.fd = fd, .events = POLLIN};
    int ready;
    Py_BEGIN_ALLOW_THREADS
    ready = ppoll(&file, 1, &limit, NULL);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(ready > 0);
}

PyDoc_STRVAR(signal_pidfd_doc,
"signal_pidfd(fd, signal, /)\n--\n\n"
"Send a signal to the process that open_pidfd() was called for, as signal.pidfd_send_signal() does.");

static PyObject *
control_signal_pidfd(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd, number;
    if (!PyArg_ParseTuple(args, "ii:signal_pidfd", &fd, &number)) {
        return NULL;
    }
    if (pidfd_signal(fd, number) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

// ---- Ctrl-C in a worker ----

// Python's own handler of SIGINT.  A process has one disposition of a signal, so this is no module's: set
// before the handler that reads it is installed.
static void (*python_handles)(int);

// In a signal handler: pass on what this process has sent to itself, by raise() or kill().
static void
take_interrupt(int number, siginfo_t *info, void *Py_UNUSED(context))
{
    if (info->si_code <= 0 && info->si_pid == getpid()) {
        python_handles(number);
    }
}

PyDoc_STRVAR(ignore_outer_interrupts_doc,
"ignore_outer_interrupts()\n--\n\n"
"Have SIGINT call the handler that Python has for it only if this process sends it to itself.\n\n"
"A terminal's Ctrl-C does nothing then, but programs that this process executes find the signal's default,\n"
"which is not so when it is ignored. Raises ValueError if Python has no handler for it.");

static PyObject *
control_ignore_outer_interrupts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    struct sigaction action;
    if (sigaction(SIGINT, NULL, &action) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if ((action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler == SIG_DFL
        || action.sa_handler == SIG_IGN) {
        PyErr_SetString(PyExc_ValueError, "SIGINT has no handler of Python's");
        return NULL;
    }
    python_handles = action.sa_handler;
    action.sa_sigaction = take_interrupt;
    action.sa_flags |= SA_SIGINFO;
    if (sigaction(SIGINT, &action, NULL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(name_thread_doc,
"name_thread(name, /)\n--\n\n"
"Have ps, top and /proc/PID/comm call the calling thread so, in the first 15 bytes.\n\n"
"The name of a process is that of its main thread.");

static PyObject *
control_name_thread(PyObject *Py_UNUSED(module), PyObject *arg)
{
    const char *name = PyUnicode_AsUTF8(arg);
    if (name == NULL) {
        return NULL;
    }
    (void)prctl(PR_SET_NAME, name);  // a sandbox may refuse it, and nothing depends on it
    Py_RETURN_NONE;
}

PyMethodDef process_control_methods[] = {
    {"fork", control_fork, METH_VARARGS, fork_doc},
    {"fork_pair", control_fork_pair, METH_VARARGS, fork_pair_doc},
    {"die_with_parent", control_die_with_parent, METH_O, die_with_parent_doc},
    {"keep_death_signal", control_keep_death_signal, METH_NOARGS, keep_death_signal_doc},
    {"try_poll", control_try_poll, METH_NOARGS, try_poll_doc},
    {"die_with_pipe", control_die_with_pipe, METH_O, die_with_pipe_doc},
    {"name_thread", control_name_thread, METH_O, name_thread_doc},
    {"open_pidfd", control_open_pidfd, METH_O, open_pidfd_doc},
    {"reap", control_reap, METH_VARARGS, reap_doc},
    {"open_stream", control_open_stream, METH_NOARGS, open_stream_doc},
    {"wait_readable", control_wait_readable, METH_VARARGS, wait_readable_doc},
    {"signal_pidfd", control_signal_pidfd, METH_VARARGS, signal_pidfd_doc},
    {"ignore_outer_interrupts", control_ignore_outer_interrupts, METH_NOARGS, ignore_outer_interrupts_doc},
    {NULL, NULL, 0, NULL},
};
