#include "process_state.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// ---- capabilities ----

// Capabilities are a thread's.  0, or -1 with errno.
static int
get_capabilities(pid_t thread, struct __user_cap_data_struct low_high[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = thread};
    return (int)syscall(SYS_capget, &header, low_high);
}

PyDoc_STRVAR(read_capabilities_doc,
"read_capabilities()\n--\n\n"
"Return what /proc/self/status calls CapInh, CapPrm, CapEff, CapBnd, CapAmb, NoNewPrivs and Seccomp, as\n"
"numbers, from the kernel itself: the first three of the main thread, the others of this one.");

static PyObject *
control_read_capabilities(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    struct __user_cap_data_struct low_high[2] = {{0}};
    if (get_capabilities(getpid(), low_high) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    unsigned long long bounding = 0, ambient = 0;
    for (unsigned long capability = 0; capability < 64; capability++) {
        int is_set = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
        if (is_set < 0) {
            break;  // this kernel knows none above
        }
        bounding |= (unsigned long long)is_set << capability;
        is_set = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0);
        ambient |= (unsigned long long)(is_set > 0) << capability;
    }
#define BOTH(part) (low_high[0].part | (unsigned long long)low_high[1].part << 32)
    return Py_BuildValue("KKKKKii", BOTH(inheritable), BOTH(permitted), BOTH(effective), bounding, ambient,
                         prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
#undef BOTH
}

PyDoc_STRVAR(limit_capabilities_doc,
"limit_capabilities(inheritable, permitted, effective, bounding, ambient, no_new_privs, /)\n--\n\n"
"Give up what this thread has and these do not, as far as the kernel allows it.");

static PyObject *
control_limit_capabilities(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long inheritable, permitted, effective, bounding, ambient;
    int no_new_privs;
    if (!PyArg_ParseTuple(args, "KKKKKi:limit_capabilities", &inheritable, &permitted, &effective, &bounding,
                          &ambient, &no_new_privs)) {
        return NULL;
    }
    // The bounding set first: to limit it takes a capability.
    for (unsigned long capability = 0; capability < 64; capability++) {
        if ((bounding >> capability & 1) == 0 && prctl(PR_CAPBSET_READ, capability, 0, 0, 0) > 0) {
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        if ((ambient >> capability & 1) == 0) {
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, capability, 0, 0);
        }
    }
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct low_high[2] = {{0}};
    if (get_capabilities(0, low_high) == 0) {
        for (int i = 0; i < 2; i++) {
            low_high[i].inheritable &= (unsigned)(inheritable >> 32 * i);
            low_high[i].permitted &= (unsigned)(permitted >> 32 * i);
            low_high[i].effective &= (unsigned)(effective >> 32 * i);
        }
        syscall(SYS_capset, &header, low_high);
    }
    if (no_new_privs > 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    Py_RETURN_NONE;
}

// ---- what /proc tells ----

// So many bytes of a file are read at a time: less is its end, for which the kernel need not be asked again.
#define PART_BYTES 8192

// All of /proc/self/status, with a zero after it, for PyMem_RawFree().  NULL, with errno.
static char *
read_own_status(void)
{
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    char *text = NULL;
    size_t size = 0;
    ssize_t part = PART_BYTES;
    while (part == PART_BYTES) {
        char *larger = PyMem_RawRealloc(text, size + PART_BYTES + 1);
        if (larger == NULL) {
            errno = ENOMEM;
            part = -1;
            break;
        }
        text = larger;
        part = read(fd, text + size, PART_BYTES);
        size += part < 0 ? 0 : (size_t)part;
    }
    int error = errno;
    close(fd);
    if (part < 0) {
        PyMem_RawFree(text);
        errno = error;
        return NULL;
    }
    text[size] = 0;
    return text;
}

// Where the line with this name has its value, or NULL.
static const char *
find_line(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = text; line != NULL && *line != 0;) {
        if (strncmp(line, name, length) == 0 && line[length] == ':' && line[length + 1] == '\t') {
            return line + length + 2;
        }
        line = strchr(line, '\n');
        line += line != NULL;
    }
    return NULL;
}

PyDoc_STRVAR(read_status_doc,
"read_status(names, /)\n--\n\n"
"Return what the lines of /proc/self/status with these names say, as a dictionary; those that there are.\n"
"Raises OSError where there is no such file. In Python it would take half as long again, and twice as long\n"
"after a fork, when each page that is written to is copied.");

static PyObject *
control_read_status(PyObject *Py_UNUSED(module), PyObject *arg)
{
    if (!PyTuple_Check(arg)) {
        PyErr_SetString(PyExc_TypeError, "names must be a tuple");
        return NULL;
    }
    char *text;
    Py_BEGIN_ALLOW_THREADS
    text = read_own_status();
    Py_END_ALLOW_THREADS
    if (text == NULL) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *found = PyDict_New();
    for (Py_ssize_t i = 0; found != NULL && i < PyTuple_GET_SIZE(arg); i++) {
        PyObject *name = PyTuple_GET_ITEM(arg, i), *said = NULL;
        const char *key = PyUnicode_AsUTF8(name), *value = key == NULL ? NULL : find_line(text, key);
        if (value != NULL) {
            size_t size = strcspn(value, "\n");
            while (size > 0 && value[size - 1] == ' ') {
                size--;
            }
            said = PyUnicode_DecodeASCII(value, (Py_ssize_t)size, "replace");
        }
        if (PyErr_Occurred() || (said != NULL && PyDict_SetItem(found, name, said) < 0)) {
            Py_CLEAR(found);
        }
        Py_XDECREF(said);
    }
    PyMem_RawFree(text);
    return found;
}

// ---- limits of resources ----

PyDoc_STRVAR(read_limits_doc,
"read_limits()\n--\n\n"
"Return what getrlimit() says of each resource, for set_limits(): something to compare. Raises OSError if\n"
"the system refuses that.");

static PyObject *
control_read_limits(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    struct rlimit limits[RLIM_NLIMITS] = {{0}};
    for (unsigned i = 0; i < RLIM_NLIMITS; i++) {
        if (getrlimit(i, &limits[i]) < 0 && errno != EINVAL) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
    return PyBytes_FromStringAndSize((const char *)limits, sizeof(limits));
}

PyDoc_STRVAR(set_limits_doc,
"set_limits(limits, /)\n--\n\n"
"Limit this process as read_limits() has told of another one, as far as the kernel allows it.");

static PyObject *
control_set_limits(PyObject *Py_UNUSED(module), PyObject *arg)
{
    struct rlimit limits[RLIM_NLIMITS], own;
    if (!PyBytes_Check(arg) || PyBytes_GET_SIZE(arg) != sizeof(limits)) {
        PyErr_SetString(PyExc_TypeError, "limits must be what read_limits() returns");
        return NULL;
    }
    memcpy(limits, PyBytes_AS_STRING(arg), sizeof(limits));
    for (unsigned i = 0; i < RLIM_NLIMITS; i++) {
        if (getrlimit(i, &own) == 0
            && (own.rlim_cur != limits[i].rlim_cur || own.rlim_max != limits[i].rlim_max)) {
            (void)setrlimit(i, &limits[i]);  // only a privileged process may raise it
        }
    }
    Py_RETURN_NONE;
}

PyMethodDef process_state_methods[] = {
    {"read_capabilities", control_read_capabilities, METH_NOARGS, read_capabilities_doc},
    {"limit_capabilities", control_limit_capabilities, METH_VARARGS, limit_capabilities_doc},
    {"read_status", control_read_status, METH_O, read_status_doc},
    {"read_limits", control_read_limits, METH_NOARGS, read_limits_doc},
    {"set_limits", control_set_limits, METH_O, set_limits_doc},
    {NULL, NULL, 0, NULL},
};
