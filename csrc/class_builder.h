// class_builder: what stands for builtins.__build_class__ while pyconc is installed.
//
// CPython refuses a class whose metaclass does not agree with that of its bases before any code of the
// metaclass runs. pyconc's executors have a metaclass and the standard ones have none, so where install() has
// put pyconc's in their place, a class statement that worked would fail.  This function looks at the bases
// first.  It is in C so that it adds no frame to those that metaclasses look at, and costs other class
// statements next to nothing.
#ifndef PYCONC_CLASS_BUILDER_H
#define PYCONC_CLASS_BUILDER_H

#include "base/state.h"

// A function like `original`.  If the type of any base is `metaclass`, it gives the original the bases that
// choose_bases(bases, metaclass named by the statement or None) returns.
PyObject *class_builder_new(PyObject *original, PyObject *metaclass, PyObject *choose_bases);

#endif
