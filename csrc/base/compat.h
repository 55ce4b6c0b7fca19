// compat: what differs between CPython 3.10 and 3.15, in one place and under the newest names.
#ifndef PYCONC_COMPAT_H
#define PYCONC_COMPAT_H

#include <Python.h>
#include <stdbool.h>
#include <structmember.h>

// In a PyMethodDef, a function with METH_FASTCALL.
#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

// The start of a C struct that derives from a class written in Python without __slots__: the object, and the
// fields in which such an instance itself keeps its __dict__ and __weakref__.
#if PY_VERSION_HEX >= 0x030C0000
#define PYTHON_CLASS_HEAD PyObject_HEAD
#elif PY_VERSION_HEX >= 0x030B0000
#define PYTHON_CLASS_HEAD \
    PyObject_HEAD         \
    PyObject *weaklist;
#else
#define PYTHON_CLASS_HEAD \
    PyObject_HEAD         \
    PyObject *dict;       \
    PyObject *weaklist;
#endif

#if PY_VERSION_HEX < 0x030D0000
static inline int
PyObject_VisitManagedDict(PyObject *op, visitproc visit, void *arg)
{
#if PY_VERSION_HEX >= 0x030C0000
    return _PyObject_VisitManagedDict(op, visit, arg);
#else
    PyObject **dict = _PyObject_GetDictPtr(op);
    if (dict != NULL) {
        Py_VISIT(*dict);
    }
    return 0;
#endif
}

static inline void
PyObject_ClearManagedDict(PyObject *op)
{
#if PY_VERSION_HEX >= 0x030C0000
    _PyObject_ClearManagedDict(op);
#else
    PyObject **dict = _PyObject_GetDictPtr(op);
    if (dict != NULL) {
        Py_CLEAR(*dict);
    }
#endif
}

static inline int
PyObject_GetOptionalAttr(PyObject *op, PyObject *name, PyObject **result)
{
    *result = PyObject_GetAttr(op, name);
    if (*result != NULL) {
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

static inline int
PyWeakref_GetRef(PyObject *ref, PyObject **result)
{
    PyObject *referent = PyWeakref_GetObject(ref);  // borrowed
    *result = referent == Py_None ? NULL : Py_XNewRef(referent);
    return *result != NULL ? 1 : referent == NULL ? -1
                                                  : 0;
}
#endif

#if PY_VERSION_HEX < 0x030B0000
static inline PyObject *
PyErr_GetHandledException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_GetExcInfo(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}
#endif

#if PY_VERSION_HEX < 0x030C0000
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static inline void
PyErr_SetRaisedException(PyObject *exception)
{
    if (exception == NULL) {
        PyErr_Clear();
        return;
    }
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception,
                  PyException_GetTraceback(exception));
}
#endif

#if PY_VERSION_HEX < 0x030B0000
#define PyType_GetModuleByDef _PyType_GetModuleByDef
#endif

// Whether weak references to an object exist.
static inline bool
has_weakrefs(PyObject *op)
{
    Py_ssize_t offset = Py_TYPE(op)->tp_weaklistoffset;
    return offset != 0 && *(PyObject **)(void *)((char *)op + offset) != NULL;
}

// A number that changes whenever an attribute of the type, or of a base, does; 0 while it has none.
static inline unsigned int
type_version(PyTypeObject *type)
{
#if PY_VERSION_HEX < 0x030C0000
    if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG)) {
        return 0;
    }
#endif
    return type->tp_version_tag;
}

// The value of the calling frame's local variable; a new reference.  NULL with an exception set if
// it has none of that name.
static inline PyObject *
frame_get_local(PyFrameObject *frame, PyObject *name)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyFrame_GetVar(frame, name);
#else
    PyObject *locals = PyObject_GetAttrString((PyObject *)frame, "f_locals");
    if (locals == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetItem(locals, name);
    Py_DECREF(locals);
    return value;
#endif
}

#endif
