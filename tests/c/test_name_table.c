// Tests of core/name_table.
#define _GNU_SOURCE
#include "core/name_table.h"

#include "check.h"

static void
a_name_has_one_number(void)
{
    name_table table = {0};
    char text[16];
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 1000; i++) {
            int bytes = snprintf(text, sizeof(text), "name %u", i);
            CHECK_EQ(name_table_number(&table, text, (size_t)bytes), i);
        }
    }
    CHECK_EQ(name_table_number(&table, "name 1 and more", 6), 1);
    CHECK_EQ(name_table_number(&table, "", 0), 1000);
    CHECK_EQ(table.count, 1001);
    CHECK(strcmp(table.entries[7].text, "name 7") == 0);
    name_table_fini(&table);
    CHECK_EQ(table.count, 0);
    name_table_fini(&table);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_name_has_one_number),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
