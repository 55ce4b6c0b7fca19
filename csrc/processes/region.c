#include "region.h"

#include <errno.h>
#include <unistd.h>

// Giving memory back walks along all blocks: not for less than this.
#define TRIM_BYTES (8 << 20)

// What stands at the front of a region, behind the header of the memory itself.
typedef struct region_root {
    _Atomic uint64_t first_block;  // the arena's list
    uint64_t head_bytes;
    uint64_t unused[6];
} region_root;

_Static_assert(sizeof(region_root) == 64, "the layout is shared");

void
region_raise(int status)
{
    if (status == SHM_NO_MEMORY) {
        PyErr_NoMemory();
    }
    else if (status == SHM_NOT_OURS) {
        PyErr_SetString(PyExc_ValueError, "the file descriptor is not a region of this version of pyconc");
    }
    else {
        PyErr_SetFromErrno(PyExc_OSError);
    }
}

static RegionObject *
region_alloc(module_state *state)
{
    RegionObject *self = (RegionObject *)state->region_type->tp_alloc(state->region_type, 0);
    if (self != NULL) {
        self->module = state;
        self->memory = (shm_region)SHM_REGION_CLOSED;
    }
    return self;
}

static int
open_parts(RegionObject *self, uint32_t me)
{
    region_root *root = (region_root *)(self->memory.base + SHM_PAGE);
    self->head = (unsigned char *)(root + 1);
    self->head_bytes = root->head_bytes;
    return shm_arena_open(&self->arena, &self->memory, &root->first_block, me);
}

RegionObject *
region_new(module_state *state, uint64_t head_bytes)
{
    uint64_t offset;
    RegionObject *self = region_alloc(state);
    if (self == NULL) {
        return NULL;
    }
    int rc = shm_region_create(&self->memory);
    if (rc == SHM_OK) {
        rc = shm_region_extend(&self->memory, sizeof(region_root) + head_bytes, &offset);
    }
    if (rc == SHM_OK) {
        ((region_root *)(self->memory.base + offset))->head_bytes = head_bytes;
        rc = open_parts(self, SHM_PARENT);
    }
    if (rc != SHM_OK) {
        region_raise(rc);
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

RegionObject *
region_join(module_state *state, int fd, uint32_t me)
{
    RegionObject *self = region_alloc(state);
    int rc = self == NULL ? SHM_NO_MEMORY : shm_region_attach(&self->memory, fd);
    if (rc == SHM_OK && !shm_region_contains(&self->memory, SHM_PAGE, sizeof(region_root))) {
        rc = SHM_NOT_OURS;
    }
    if (rc == SHM_OK) {
        region_root *root = (region_root *)(self->memory.base + SHM_PAGE);
        rc = shm_region_contains(&self->memory, SHM_PAGE + sizeof(region_root), root->head_bytes)
                 ? open_parts(self, me)
                 : SHM_NOT_OURS;
    }
    if (rc != SHM_OK) {
        region_raise(rc);
        if (self == NULL || self->memory.base == NULL) {
            close(fd);
        }
        Py_XDECREF(self);
        return NULL;
    }
    return self;
}

static void
trim_if_due(RegionObject *self)
{
    if (self->rests && self->loose_bytes >= TRIM_BYTES && region_me(self) != SHM_NOBODY) {
        self->loose_bytes = 0;
        shm_arena_trim(&self->arena);
    }
}

void
region_set_rests(RegionObject *self, bool rests)
{
    self->rests = rests;
    trim_if_due(self);
}

int
region_claim(RegionObject *self, uint64_t bytes, shm_block **block)
{
    int rc = shm_arena_claim(&self->arena, bytes, block);
    if (rc == SHM_OK) {
        self->loose_bytes += (*block)->capacity;
    }
    return rc;
}

void
region_after_fork(RegionObject *self)
{
    self->arena.me = SHM_NOBODY;
}

static PyObject *
region_count(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    uint64_t committed, held;
    shm_arena_count(&((RegionObject *)op)->arena, &committed, &held);
    return Py_BuildValue("KK", (unsigned long long)committed, (unsigned long long)held);
}

static PyObject *
region_fileno(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(((RegionObject *)op)->memory.fd);
}

static void
region_dealloc(PyObject *op)
{
    RegionObject *self = (RegionObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    shm_arena_close(&self->arena);
    shm_region_close(&self->memory);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(count_doc,
"count($self, /)\n--\n\n"
"Return two numbers of bytes: what this process's own blocks occupy, and how much of it is in use.");

PyDoc_STRVAR(fileno_doc,
"fileno($self, /)\n--\n\n"
"Return the file descriptor of the memory.");

static PyMethodDef region_methods[] = {
    {"count", region_count, METH_NOARGS, count_doc},
    {"fileno", region_fileno, METH_NOARGS, fileno_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(region_doc,
"The memory that an executor and its workers share. Made by ProcessQueue and Worker.");

static PyType_Slot region_slots[] = {
    {Py_tp_doc, (void *)region_doc},
    {Py_tp_dealloc, region_dealloc},
    {Py_tp_methods, region_methods},
    {0, NULL},
};

PyType_Spec region_spec = {
    .name = "pyconc._core.Region",
    .basicsize = sizeof(RegionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = region_slots,
};

// ---- blocks ----

static BlockObject *
block_alloc(RegionObject *region, shm_block *block, BlockObject *whole, unsigned char *start, uint64_t size)
{
    BlockObject *self = PyObject_New(BlockObject, region->module->block_type);
    if (self != NULL) {
        self->whole = (BlockObject *)Py_XNewRef((PyObject *)whole);
        self->region = (RegionObject *)Py_NewRef((PyObject *)region);
        self->block = block;
        self->start = start;
        self->size_bytes = (Py_ssize_t)size;
    }
    return self;
}

BlockObject *
block_new(RegionObject *region, shm_block *block, uint64_t size)
{
    BlockObject *self = block_alloc(region, block, NULL, block->payload, size);
    if (self == NULL) {
        shm_block_release(block, region_me(region));
    }
    return self;
}

BlockObject *
block_part(BlockObject *whole, uint64_t start, uint64_t size)
{
    return block_alloc(whole->region, whole->block, whole, whole->start + start, size);
}

static int
block_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    BlockObject *self = (BlockObject *)op;
    return PyBuffer_FillInfo(view, op, self->start, self->size_bytes, 0, flags);
}

static void
block_dealloc(PyObject *op)
{
    BlockObject *self = (BlockObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->whole == NULL) {
        self->region->loose_bytes += self->block->capacity;
        shm_block_release(self->block, region_me(self->region));
        trim_if_due(self->region);
    }
    Py_XDECREF((PyObject *)self->whole);
    Py_DECREF((PyObject *)self->region);
    PyObject_Free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(block_doc,
"A stretch of shared memory that is private to whoever has it: the buffer behind an array that came\n"
"from another process. The memory goes back with the last reference.");

static PyType_Slot block_slots[] = {
    {Py_tp_doc, (void *)block_doc},
    {Py_tp_dealloc, block_dealloc},
    {Py_bf_getbuffer, (void *)block_getbuffer},
    {0, NULL},
};

PyType_Spec block_spec = {
    .name = "pyconc._core.Block",
    .basicsize = sizeof(BlockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};
