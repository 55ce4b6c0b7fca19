#include "shared_change.h"

void
shared_change_takes(shared_change *change, const shared_item *item)
{
    if (shared_run_refers(change->run)) {
        change->lacks_gone = !shared_refs_add_item(&change->gone, item) || change->lacks_gone;
    }
}

void
shared_change_takes_all(shared_change *change)
{
    if (shared_run_refers(change->run)) {
        change->lacks_gone = !change->run->kind->add_refs(change->run, &change->gone) || change->lacks_gone;
    }
}

int
shared_change_hold_those(shared_change *change)
{
    if (change->lacks_come) {
        return SHARED_HEAP_FULL;
    }
    int rc = shared_run_hold(change->run, &change->come);
    change->is_held = rc == 0;
    return rc;
}

int
shared_change_end_those(shared_change *change, int rc)
{
    if (rc == 0 && change->lacks_gone) {
        shared_run_count_later(change->run);
    }
    else if (rc == 0) {
        shared_run_let_go(change->run, &change->gone);
    }
    else if (change->is_held) {
        shared_run_let_go(change->run, &change->come);
    }
    shared_refs_fini(&change->come);
    shared_refs_fini(&change->gone);
    return rc;
}
