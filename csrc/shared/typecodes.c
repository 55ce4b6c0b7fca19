#include "typecodes.h"

size_t
typecode_size(char code)
{
    switch (code) {
    case 'b':
    case 'B':
    case 'c':
        return 1;
    case '?':
        return sizeof(bool);
    case 'h':
    case 'H':
        return sizeof(short);
    case 'i':
    case 'I':
        return sizeof(int);
    case 'l':
    case 'L':
        return sizeof(long);
    case 'q':
    case 'Q':
        return sizeof(long long);
    case 'f':
        return sizeof(float);
    case 'd':
        return sizeof(double);
    default:
        return 0;
    }
}

// A byte, as ctypes takes one.
static bool
byte_bits(PyObject *value, uint64_t *bits)
{
    if (PyBytes_Check(value) && PyBytes_GET_SIZE(value) == 1) {
        *bits = (unsigned char)PyBytes_AS_STRING(value)[0];
        return true;
    }
    if (PyByteArray_Check(value) && PyByteArray_GET_SIZE(value) == 1) {
        *bits = (unsigned char)PyByteArray_AS_STRING(value)[0];
        return true;
    }
    if (!PyLong_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "one character bytes, bytearray or integer expected");
        return false;
    }
    int overflow;
    long number = PyLong_AsLongAndOverflow(value, &overflow);
    if (overflow != 0 || number < 0 || number > 255) {
        PyErr_SetString(PyExc_TypeError, "integer not in range(256)");
        return false;
    }
    *bits = (uint64_t)number;
    return true;
}

bool
typecode_bits(char code, PyObject *value, uint64_t *bits)
{
    if (typecode_is_float(code)) {
        double number = PyFloat_AsDouble(value);
        memcpy(bits, &number, sizeof(*bits));
        return !(number == -1.0 && PyErr_Occurred());
    }
    if (code == 'c') {
        return byte_bits(value, bits);
    }
    if (code == '?') {
        int truth = PyObject_IsTrue(value);
        *bits = truth > 0;
        return truth >= 0;
    }
    PyObject *number = PyNumber_Index(value);
    if (number == NULL) {
        return false;
    }
    *bits = PyLong_AsUnsignedLongLongMask(number);  // as ctypes does, without a check
    Py_DECREF(number);
    return !(*bits == UINT64_MAX && PyErr_Occurred());
}

PyObject *
typecode_value(char code, uint64_t bits)
{
    char character = (char)bits;
    switch (code) {
    case 'd':
    case 'f':
        return PyFloat_FromDouble(typecode_double(code, bits));
    case 'c':
        return PyBytes_FromStringAndSize(&character, 1);
    case '?':
        return PyBool_FromLong(bits != 0);
    case 'b':
        return PyLong_FromLong((int8_t)bits);
    case 'B':
        return PyLong_FromLong((uint8_t)bits);
    case 'h':
        return PyLong_FromLong((int16_t)bits);
    case 'H':
        return PyLong_FromLong((uint16_t)bits);
    case 'i':
        return PyLong_FromLong((int32_t)bits);
    case 'I':
        return PyLong_FromUnsignedLong((uint32_t)bits);
    case 'L':
    case 'Q':
        return PyLong_FromUnsignedLongLong(bits);
    default:
        return PyLong_FromLongLong((int64_t)bits);
    }
}
