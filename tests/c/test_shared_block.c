// Tests of core/shared_block.
#define _GNU_SOURCE
#include "core/shared_block.h"
#include "core/shared_heap_cells.h"
#include "core/shared_heap_layout.h"
#include "core/shared_heap_open.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check_steps.h"

static uint64_t
memory_of(shared_heap *heap)
{
    struct stat info;
    CHECK(fstat(shared_heap_fd(heap), &info) == 0);
    return (uint64_t)info.st_blocks * 512;
}

// How many addresses this process has for memory that is shared.
static uint64_t
mapped_bytes(void)
{
    char line[512];
    uint64_t bytes = 0;
    unsigned long start, end;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (strstr(line, "/memfd:") != NULL && sscanf(line, "%lx-%lx", &start, &end) == 2) {
            bytes += end - start;
        }
    }
    fclose(maps);
    return bytes;
}

static bool
is_all(const shared_block *block, unsigned char value)
{
    for (uint64_t i = 0; i < block->bytes; i++) {
        if (block->at[i] != value) {
            return false;
        }
    }
    return true;
}

static void
a_block_is_zero_and_gone_with_its_cell(void)
{
    shared_heap *heap = shared_heap_open(-1);
    CHECK(heap != NULL);
    const uint64_t sizes[] = {1, SHARED_UNIT_BYTES, SHARED_UNIT_BYTES + 1, 5 * SHARED_UNIT_BYTES};
    uint64_t before = 0;
    for (size_t i = 0; i < 2 * CHECK_COUNT(sizes); i++) {
        uint64_t size = sizes[i % CHECK_COUNT(sizes)];
        shared_block block;
        uint32_t index;
        CHECK_EQ(shared_heap_make(heap, &index), 0);
        uint64_t without = memory_of(heap);
        CHECK_EQ(shared_block_make(&block, heap, index, size), 0);
        CHECK_EQ(block.bytes, size);
        CHECK(memory_of(heap) >= without + size);
        CHECK(memory_of(heap) < without + size + 3 * 4096);  // of this, and of the table of units
        CHECK(is_all(&block, 0));
        memset(block.at, 7, size);
        shared_block_fini(&block);
        shared_heap_drop(heap, index);
        before = i == 0 ? memory_of(heap) : before;
        CHECK(memory_of(heap) <= before);
    }
    shared_heap_close(heap);
}

static void
none_is_an_empty_one(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_block block, same;
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    CHECK_EQ(shared_block_make(&block, heap, index, 0), 0);
    CHECK_EQ(shared_block_open(&same, heap, index), 0);
    CHECK(block.at == NULL && same.at == NULL && same.bytes == 0);
    shared_block_fini(&block);
    shared_block_fini(&same);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
}

static void
what_is_too_large_takes_nothing(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_block block;
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    CHECK_EQ(shared_block_make(&block, heap, index, SHARED_BLOCK_BYTES_MAX + 1), SHARED_HEAP_FULL);
    CHECK_EQ(shared_block_make(&block, heap, index, UINT64_MAX), SHARED_HEAP_FULL);
    CHECK(block.at == NULL);
    CHECK_EQ(shared_block_make(&block, heap, index, 10), 0);
    CHECK(is_all(&block, 0));
    shared_block_fini(&block);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
}

static void
another_mapping_sees_the_same(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_heap *other = shared_heap_open(shared_heap_fd(heap));
    shared_block block, same;
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    CHECK_EQ(shared_block_make(&block, heap, index, 100000), 0);
    CHECK_EQ(shared_heap_attach(other, index, shared_heap_cell(heap, index)->serial), 0);
    CHECK_EQ(shared_block_open(&same, other, index), 0);
    CHECK(same.at != block.at);
    CHECK_EQ(same.bytes, 100000);
    same.at[99999] = 3;
    CHECK_EQ(block.at[99999], 3);
    // What one has mapped is there as long as that one has the cell.
    shared_block_fini(&block);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
    CHECK_EQ(same.at[99999], 3);
    shared_block_fini(&same);
    shared_heap_drop(other, index);
    CHECK_EQ(shared_heap_used(other), 0);
    shared_heap_close(other);
}

// Runs in a child, which a write to what is read-only kills.
static bool
can_write(const shared_block *block)
{
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);  // a sanitizer's would report it
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        block->at[0] = 1;
        _exit(0);
    }
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) || WTERMSIG(status) == SIGSEGV);
    return WIFEXITED(status);
}

static void
what_is_written_through_the_file_is_in_the_mapping(void)
{
    enum {
        BYTES = 5 << 20
    };
    unsigned char *data = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++) {
        data[i] = (unsigned char)(i % 251);
    }
    shared_heap *heap = shared_heap_open(-1);
    shared_block block;
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    uint64_t before = memory_of(heap);
    CHECK_EQ(shared_block_reserve(&block, heap, index, BYTES + 100), 0);
    CHECK_EQ(memory_of(heap), before);
    int fd = heap->file.fd;
    heap->file.fd = -1;  // the program has closed it
    CHECK(!shared_block_write(&block, 64, data, BYTES));
    heap->file.fd = fd;

    // No file may be so large: the memory is there all the same.
    struct rlimit limit, none = {.rlim_cur = 0};
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    none.rlim_max = limit.rlim_max;
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR && setrlimit(RLIMIT_FSIZE, &none) == 0);
    CHECK(shared_block_write(&block, 64, data, 100) && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(memcmp(block.at + 64, data, 100) == 0);

    CHECK(shared_block_write(&block, 64, data, BYTES) && shared_block_write(&block, 0, NULL, 0));
    CHECK(memcmp(block.at + 64, data, BYTES) == 0);
    CHECK_EQ(block.at[63] + block.at[64 + BYTES], 0);
    CHECK(memory_of(heap) >= before + BYTES);
    shared_block_fini(&block);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
    free(data);
}

static void
what_is_sealed_nobody_writes(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_block block, same;
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    CHECK_EQ(shared_block_make(&block, heap, index, 10), 0);
    CHECK(can_write(&block));
    CHECK(!block.is_sealed);
    CHECK(shared_block_seal(&block, heap, index));
    CHECK_EQ(shared_block_open(&same, heap, index), 0);
    CHECK(block.is_sealed && same.is_sealed);
    CHECK(!can_write(&block) && !can_write(&same));
    CHECK_EQ(same.at[0], 1);
    shared_block_fini(&same);
    shared_block_fini(&block);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
}

// Makes a sealed block of one unit that has this byte everywhere.
static void
make_sealed(shared_block *block, shared_heap *heap, uint32_t *index, unsigned char value)
{
    CHECK_EQ(shared_heap_make(heap, index), 0);
    CHECK_EQ(shared_block_make(block, heap, *index, SHARED_UNIT_BYTES), 0);
    memset(block->at, value, SHARED_UNIT_BYTES);
    CHECK(shared_block_seal(block, heap, *index));
}

static void
the_mapping_of_a_sealed_one_is_kept_for_who_opens_it_again_and_shows_what_is_there(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_block block, same;
    uint32_t index;
    make_sealed(&block, heap, &index, 1);
    const unsigned char *at = block.at;
    shared_block_fini(&block);
    CHECK_EQ(shared_block_open(&block, heap, index), 0);
    CHECK_EQ(shared_block_open(&same, heap, index), 0);
    const unsigned char *second = same.at;
    CHECK(block.at == at && second != at);  // one view has what was kept, and nobody else
    CHECK(is_all(&block, 1) && is_all(&same, 1) && !can_write(&block));
    shared_block_fini(&same);
    shared_block_fini(&block);

    // Another cell has the run: what is kept holds no memory, and shows the other's.
    uint64_t with = memory_of(heap);
    shared_heap_drop(heap, index);
    CHECK(memory_of(heap) <= with - SHARED_UNIT_BYTES);
    make_sealed(&same, heap, &index, 2);
    CHECK_EQ(shared_block_open(&block, heap, index), 0);
    CHECK((block.at == at || block.at == second) && is_all(&block, 2));
    shared_block_fini(&same);
    shared_block_fini(&block);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
}

static void
few_mappings_are_kept_and_none_where_addresses_are_limited(void)
{
    enum {
        MANY = 100,
        FEW = 8
    };
    shared_heap *heap = shared_heap_open(-1);
    shared_block blocks[MANY];
    uint32_t cells[MANY];
    uint64_t before = mapped_bytes();
    for (int i = 0; i < MANY; i++) {
        make_sealed(&blocks[i], heap, &cells[i], (unsigned char)i);
    }
    for (int i = 0; i < MANY; i++) {
        shared_block_fini(&blocks[i]);
    }
    CHECK(mapped_bytes() <= before + FEW * SHARED_UNIT_BYTES);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(shared_block_open(&blocks[i], heap, cells[i]), 0);
        CHECK(is_all(&blocks[i], (unsigned char)i));
    }
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    // Which is more than there are.
    CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){UINT64_C(1) << 62, limit.rlim_max}) == 0);
    for (int i = 0; i < MANY; i++) {
        shared_block_fini(&blocks[i]);
        shared_heap_drop(heap, cells[i]);
    }
    CHECK_EQ(mapped_bytes(), before);
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    shared_heap_close(heap);
}

static void
garbage_in_the_cell_leads_nowhere(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_block block, same;
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    CHECK_EQ(shared_block_make(&block, heap, index, 10), 0);
    shared_cell *cell = shared_heap_cell(heap, index);
    uint64_t run = atomic_load(&cell->value);
    atomic_store(&cell->more, SHARED_UNIT_BYTES + 1);  // more than the run has
    CHECK_EQ(shared_block_open(&same, heap, index), SHARED_HEAP_GONE);
    atomic_store(&cell->more, 10);
    atomic_store(&cell->value, run | UINT64_C(31) << 20);  // an order that there is not
    CHECK_EQ(shared_block_open(&same, heap, index), SHARED_HEAP_GONE);
    atomic_store(&cell->value, run | UINT64_C(1) << 20 | 0xfffff);  // beyond the end
    CHECK_EQ(shared_block_open(&same, heap, index), SHARED_HEAP_GONE);
    CHECK(same.at == NULL);
    shared_block_fini(&block);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
}

#if !defined(__SANITIZE_THREAD__)

typedef struct scene {
    shared_heap *heap;
    uint32_t index;
} scene;

static void
make_block(void *arg)
{
    scene *s = arg;
    shared_block block;
    if (shared_block_make(&block, s->heap, s->index, 100000) != 0) {
        _exit(1);
    }
}

static void
who_dies_in_making_it_leaves_what_goes_with_the_cell(void)
{
    scene s = {.heap = shared_heap_open(-1)};
    check_child child = {.run = make_block, .arg = &s};
    CHECK_EQ(shared_heap_make(s.heap, &s.index), 0);
    make_block(&s);
    shared_heap_drop(s.heap, s.index);
    uint64_t before = memory_of(s.heap);
    bool is_dead = CHECK_STEPS_EACH > 0;
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * 7) {
        shared_block block;
        CHECK_EQ(shared_heap_make(s.heap, &s.index), 0);
        is_dead = check_die_after(&child, steps);
        CHECK_EQ(shared_block_open(&block, s.heap, s.index), 0);
        CHECK(block.bytes == 0 || block.bytes == 100000);
        CHECK(is_all(&block, 0));
        shared_block_fini(&block);
        shared_heap_drop(s.heap, s.index);
        CHECK_EQ(shared_heap_used(s.heap), 0);
        CHECK_EQ(memory_of(s.heap), before);
    }
    shared_heap_close(s.heap);
}

#endif

static const check_test tests[] = {
    CHECK_TEST(a_block_is_zero_and_gone_with_its_cell),
    CHECK_TEST(none_is_an_empty_one),
    CHECK_TEST(what_is_too_large_takes_nothing),
    CHECK_TEST(another_mapping_sees_the_same),
    CHECK_TEST(what_is_written_through_the_file_is_in_the_mapping),
    CHECK_TEST(what_is_sealed_nobody_writes),
    CHECK_TEST(the_mapping_of_a_sealed_one_is_kept_for_who_opens_it_again_and_shows_what_is_there),
    CHECK_TEST(few_mappings_are_kept_and_none_where_addresses_are_limited),
    CHECK_TEST(garbage_in_the_cell_leads_nowhere),
#if !defined(__SANITIZE_THREAD__)
    CHECK_TEST(who_dies_in_making_it_leaves_what_goes_with_the_cell),
#endif
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
