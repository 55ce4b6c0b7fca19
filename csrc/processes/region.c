#include "region.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

// Giving memory back walks along all blocks: not for less than this.
#define TRIM_BYTES (8 << 20)

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
        region_raise_errno("processes share memory by memfd_create()");
    }
}

void
region_raise_errno(const char *need)
{
    if (errno != ENOSYS && errno != EPERM) {
        PyErr_SetFromErrno(PyExc_OSError);
        return;
    }
    static const char why[] = "which the system does not have or this sandbox does not allow";
    PyObject *args = Py_BuildValue("(iN)", errno, PyUnicode_FromFormat("%s, %s", need, why));
    if (args != NULL) {
        PyErr_SetObject(PyExc_OSError, args);
        Py_DECREF(args);
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

// Opens the arena in memory that was created or attached.  On a failure the Region is gone.
static RegionObject *
region_open(RegionObject *self, int rc, uint32_t me)
{
    if (rc == SHM_OK) {
        self->head = self->memory.head;
        self->head_bytes = self->memory.head_bytes;
        rc = shm_arena_open(&self->arena, &self->memory, me);
    }
    if (rc != SHM_OK) {
        region_raise(rc);
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

RegionObject *
region_new(module_state *state, uint64_t head_bytes, uint32_t max_workers)
{
    RegionObject *self = region_alloc(state);
    if (self == NULL) {
        return NULL;
    }
    int rc = shm_region_create(&self->memory, head_bytes, SHM_PARTIES(max_workers));
    if (rc == SHM_NO_MEMORY && errno == EFBIG) {
        PyErr_SetString(PyExc_MemoryError,
                        "shared memory for so many workers needs larger files than RLIMIT_FSIZE (ulimit -f) "
                        "allows");
        Py_DECREF(self);
        return NULL;
    }
    return region_open(self, rc, SHM_PARENT);
}

RegionObject *
region_join(module_state *state, int fd, uint32_t me)
{
    RegionObject *self = region_alloc(state);
    if (self == NULL) {
        close(fd);
        return NULL;
    }
    int rc = shm_region_attach(&self->memory, fd);
    if (rc != SHM_OK) {
        close(fd);
    }
    else if (me >= self->memory.share_count) {
        rc = SHM_NOT_OURS;
    }
    return region_open(self, rc, me);
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
    // The handler of pthread_atfork() has done so already, but where a process was cloned behind its back.
    //  Relaxed: the child has one thread.
    atomic_store_explicit(&self->memory.mapped_head.is_inherited, true, memory_order_relaxed);
}

// ---- parts of blocks that are gone ----

typedef struct dead_part {
    uint64_t start, bytes;
    struct dead_part *next;
} dead_part;

static void
leave_partial(BlockObject *whole)
{
    if (whole->partial_link != NULL) {
        *whole->partial_link = whole->next_partial;
        if (whole->next_partial != NULL) {
            whole->next_partial->partial_link = whole->partial_link;
        }
        whole->partial_link = NULL;
    }
    for (dead_part *part = whole->dead, *next; part != NULL; part = next) {
        next = part->next;
        PyMem_Free(part);
    }
    whole->dead = NULL;
}

static RegionObject *
region_of(const shm_block *block)
{
    return (RegionObject *)(void *)((char *)block->arena - offsetof(RegionObject, arena));
}

// A large part of a block dies before the whole.  Mostly the others follow at once; so its memory goes
// back only if some are there still when the next block comes.
static void
note_dead_part(const BlockObject *part)
{
    BlockObject *whole = part->whole;
    dead_part *dead = NULL;
    if (Py_REFCNT(whole) > 1 && part->size_bytes > (Py_ssize_t)SHM_SMALL_BYTES
        && whole->block->arena != NULL) {
        dead = PyMem_Malloc(sizeof(dead_part));
    }
    if (dead == NULL) {
        return;
    }
    *dead = (dead_part){
        .start = (uint64_t)(part->start - whole->start),
        .bytes = (uint64_t)part->size_bytes,
        .next = whole->dead,
    };
    whole->dead = dead;
    if (whole->partial_link == NULL) {
        RegionObject *region = region_of(whole->block);
        whole->next_partial = region->partial;
        whole->partial_link = &region->partial;
        if (whole->next_partial != NULL) {
            whole->next_partial->partial_link = &whole->next_partial;
        }
        region->partial = whole;
    }
}

static void
discard_dead_parts(RegionObject *self)
{
    BlockObject *whole;
    while ((whole = self->partial) != NULL) {
        for (dead_part *part = whole->dead; part != NULL; part = part->next) {
            shm_block_discard_part(whole->block, part->start, part->bytes);
        }
        leave_partial(whole);
    }
}

// ---- the type ----

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
    return PyLong_FromLong(((RegionObject *)op)->memory.file.fd);
}

static void
region_dealloc(PyObject *op)
{
    RegionObject *self = (RegionObject *)op;
    while (self->partial != NULL) {
        leave_partial(self->partial);
    }
    PyTypeObject *type = Py_TYPE(op);
    // The parent is the last: its workers have ended, or have no use for what is not theirs.
    shm_arena_close(&self->arena, region_me(self) == SHM_PARENT);
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
block_alloc(PyTypeObject *type, BlockObject *whole, unsigned char *start, uint64_t size)
{
    BlockObject *self = PyObject_New(BlockObject, type);
    if (self != NULL) {
        self->whole = (BlockObject *)Py_XNewRef((PyObject *)whole);
        self->region = NULL;
        self->block = NULL;
        self->start = start;
        self->size_bytes = (Py_ssize_t)size;
        self->is_readonly = false;
        self->dead = NULL;
        self->next_partial = NULL;
        self->partial_link = NULL;
    }
    return self;
}

BlockObject *
block_new(RegionObject *region, shm_block *block, uint64_t size)
{
    BlockObject *self = block_alloc(region->module->block_type, NULL, block->payload, size);
    if (self == NULL) {
        shm_block_release(block, region_me(region));
        return NULL;
    }
    self->block = block;
    discard_dead_parts(region);
    if (!shm_block_open_view(block)) {
        self->region = (RegionObject *)Py_NewRef((PyObject *)region);
    }
    return self;
}

BlockObject *
block_part(BlockObject *whole, uint64_t start, uint64_t size, bool is_readonly)
{
    BlockObject *self = block_alloc(Py_TYPE(whole), whole, whole->start + start, size);
    if (self != NULL) {
        self->is_readonly = is_readonly;
    }
    return self;
}

// Gives the memory back of which this was the last Block.
static void
release_block(shm_block *block)
{
    if (block->arena == NULL) {
        shm_block_release(block, SHM_NOBODY);
        return;
    }
    RegionObject *region = region_of(block);
    region->loose_bytes += block->capacity;
    shm_block_release(block, region_me(region));
    trim_if_due(region);
}

static void
block_dealloc(PyObject *op)
{
    BlockObject *self = (BlockObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->block != NULL) {
        leave_partial(self);
        release_block(self->block);
    }
    if (self->whole != NULL) {
        note_dead_part(self);
    }
    Py_XDECREF((PyObject *)self->whole);
    Py_XDECREF((PyObject *)self->region);
    PyObject_Free(op);
    Py_DECREF(type);
}

static int
block_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    BlockObject *self = (BlockObject *)op;
    return PyBuffer_FillInfo(view, op, self->start, self->size_bytes, self->is_readonly, flags);
}

static Py_ssize_t
block_length(PyObject *op)
{
    return ((BlockObject *)op)->size_bytes;
}

// The same as of bytes, or of a bytearray.
static PyObject *
block_subscript(PyObject *op, PyObject *key)
{
    BlockObject *self = (BlockObject *)op;
    PyObject *view = PyMemoryView_FromObject(op);
    PyObject *found = view == NULL ? NULL : PyObject_GetItem(view, key);
    Py_XDECREF(view);
    if (found != NULL && PyMemoryView_Check(found)) {
        Py_SETREF(found, self->is_readonly ? PyBytes_FromObject(found) : PyByteArray_FromObject(found));
    }
    return found;
}

static int
block_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    PyObject *view = PyMemoryView_FromObject(op);
    int rc = view == NULL    ? -1
             : value == NULL ? PyObject_DelItem(view, key)
                             : PyObject_SetItem(view, key, value);
    Py_XDECREF(view);
    return rc;
}

PyDoc_STRVAR(reduce_ex_doc,
"__reduce_ex__($self, protocol, /)\n--\n\n"
"Pickle as bytes if it is read-only, and else as a bytearray.");

static PyObject *
block_reduce_ex(PyObject *op, PyObject *protocol)
{
    BlockObject *self = (BlockObject *)op;
    long number = PyLong_AsLong(protocol);
    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyTypeObject *type = self->is_readonly ? &PyBytes_Type : &PyByteArray_Type;
    PyObject *data = number >= 5 ? PyPickleBuffer_FromObject(op) : PyBytes_FromObject(op);
    return data == NULL ? NULL : Py_BuildValue("O(N)", type, data);
}

static PyMethodDef block_methods[] = {
    {"__reduce_ex__", block_reduce_ex, METH_O, reduce_ex_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(block_doc,
"A stretch of shared memory that is private to whoever has it: the buffer behind a large array that came\n"
"from another process, and what a large pickle.PickleBuffer arrives as. Has a length and slices as a\n"
"bytearray, or as bytes if it is read-only. The memory goes back with the last reference.");

static PyType_Slot block_slots[] = {
    {Py_tp_doc, (void *)block_doc},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_methods, block_methods},
    {Py_mp_length, block_length},
    {Py_mp_subscript, block_subscript},
    {Py_mp_ass_subscript, block_ass_subscript},
    {Py_bf_getbuffer, (void *)block_getbuffer},
    {0, NULL},
};

PyType_Spec block_spec = {
    .name = "pyconc._core.Block",
    .basicsize = sizeof(BlockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};
