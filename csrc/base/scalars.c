#include "scalars.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// How deep tuples may lie in tuples.
#define DEPTH_MAX 4

// ---- writing ----

// Writes tag, size and bytes of a string.
static size_t
write_string(unsigned char tag, const void *string, Py_ssize_t size, unsigned char *bytes, size_t room)
{
    if (size > UINT8_MAX || (size_t)size + 2 > room) {
        return 0;
    }
    bytes[0] = tag;
    bytes[1] = (unsigned char)size;
    memcpy(bytes + 2, string, (size_t)size);
    return (size_t)size + 2;
}

static size_t
write_number(unsigned char tag, const void *number, unsigned char *bytes, size_t room)
{
    if (room < 9) {
        return 0;
    }
    bytes[0] = tag;
    memcpy(bytes + 1, number, 8);
    return 9;
}

static size_t write_value(PyObject *value, unsigned char *bytes, size_t room, int depth);

static size_t
write_tuple(PyObject *tuple, unsigned char *bytes, size_t room, int depth)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    if (count > UINT8_MAX || room < 2 || depth == DEPTH_MAX) {
        return 0;
    }
    bytes[0] = '(';
    bytes[1] = (unsigned char)count;
    size_t used = 2;
    for (Py_ssize_t i = 0; i < count; i++) {
        size_t written = write_value(PyTuple_GET_ITEM(tuple, i), bytes + used, room - used, depth + 1);
        if (written == 0) {
            return 0;
        }
        used += written;
    }
    return used;
}

static size_t
write_value(PyObject *value, unsigned char *bytes, size_t room, int depth)
{
    if (room == 0) {
        return 0;
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow ? 0 : write_number('i', &number, bytes, room);
    }
    if (PyUnicode_CheckExact(value)) {
        return PyUnicode_IS_COMPACT_ASCII(value)
                   ? write_string('s', PyUnicode_1BYTE_DATA(value), PyUnicode_GET_LENGTH(value), bytes, room)
                   : 0;
    }
    if (PyTuple_CheckExact(value)) {
        return write_tuple(value, bytes, room, depth);
    }
    if (value == Py_None || value == Py_True || value == Py_False) {
        bytes[0] = value == Py_None ? 'n' : value == Py_True ? 't'
                                                             : 'f';
        return 1;
    }
    if (PyFloat_CheckExact(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        return write_number('d', &number, bytes, room);
    }
    if (PyBytes_CheckExact(value)) {
        return write_string('b', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), bytes, room);
    }
    return 0;
}

size_t
scalars_write(PyObject *value, unsigned char *bytes, size_t room)
{
    return write_value(value, bytes, room, 0);
}

// ---- reading ----

typedef struct reader {
    const unsigned char *at;
    size_t left;
} reader;

static void *
complain(void)
{
    PyErr_SetString(PyExc_ValueError, "a message from another process is damaged");
    return NULL;
}

// The next bytes; NULL with an exception if there are not so many.
static const unsigned char *
take(reader *r, size_t size)
{
    if (size > r->left) {
        return complain();
    }
    const unsigned char *bytes = r->at;
    r->at += size;
    r->left -= size;
    return bytes;
}

// The bytes of a string, after its size.
static const char *
take_string(reader *r, Py_ssize_t *size)
{
    const unsigned char *count = take(r, 1);
    if (count == NULL) {
        return NULL;
    }
    *size = *count;
    return (const char *)take(r, (size_t)*size);
}

static bool
take_number(reader *r, void *number)
{
    const unsigned char *bytes = take(r, 8);
    if (bytes != NULL) {
        memcpy(number, bytes, 8);
    }
    return bytes != NULL;
}

static PyObject *read_value(reader *r, int depth);

static PyObject *
read_tuple(reader *r, int depth)
{
    const unsigned char *size = depth == DEPTH_MAX ? complain() : take(r, 1);
    Py_ssize_t count = size == NULL ? 0 : *size;
    PyObject *tuple = size == NULL ? NULL : PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *item = read_value(r, depth + 1);
        if (item == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, i, item);
    }
    return tuple;
}

static PyObject *
read_value(reader *r, int depth)
{
    const unsigned char *tag = take(r, 1);
    const char *string;
    Py_ssize_t size;
    int64_t integer;
    double number;
    if (tag == NULL) {
        return NULL;
    }
    switch (*tag) {
    case 'n':
        return Py_NewRef(Py_None);
    case 't':
        return Py_NewRef(Py_True);
    case 'f':
        return Py_NewRef(Py_False);
    case 'i':
        return take_number(r, &integer) ? PyLong_FromLongLong(integer) : NULL;
    case 'd':
        return take_number(r, &number) ? PyFloat_FromDouble(number) : NULL;
    case 's':
        string = take_string(r, &size);
        return string == NULL ? NULL : PyUnicode_DecodeASCII(string, size, NULL);
    case 'b':
        string = take_string(r, &size);
        return string == NULL ? NULL : PyBytes_FromStringAndSize(string, size);
    case '(':
        return read_tuple(r, depth);
    default:
        return complain();
    }
}

PyObject *
scalars_read(const unsigned char *bytes, size_t size)
{
    reader r = {bytes, size};
    PyObject *value = read_value(&r, 0);
    if (value != NULL && r.left > 0) {
        Py_DECREF(value);
        return complain();
    }
    return value;
}
