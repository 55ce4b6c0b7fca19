"""What some tests of multiprocessing's pools are after that skips.py skips, asked in a way that suits pyconc's."""

import multiprocessing
import unittest
import unittest.mock
from multiprocessing.pool import MaybeEncodingError


class Refusing:
    def __reduce__(self):
        raise RuntimeError("cannot pickle")

    def __repr__(self) -> str:
        return "what cannot be pickled"


def refused_result() -> Refusing:
    return Refusing()


class PoolInsteadTest(unittest.TestCase):
    def test_result_that_cannot_be_pickled(self) -> None:
        # Instead of test_unpickleable_result.
        errors = []
        with multiprocessing.Pool(2) as pool:
            workers = list(pool._pool)
            for _ in range(20):
                result = pool.apply_async(refused_result, error_callback=errors.append)
                result.wait()
                self.assertFalse(result.successful())
                error = errors.pop()
                self.assertIsInstance(error, MaybeEncodingError)
                self.assertIn("cannot pickle", error.exc)
                self.assertIn("what cannot be pickled", error.value)
            self.assertEqual(pool._pool, workers)
        pool.join()

    def test_processes_that_cannot_be_started(self) -> None:
        # Instead of test_release_unused_processes.
        for method in ("forkserver", "spawn"):
            context = multiprocessing.get_context(method)
            refuse = unittest.mock.patch.object(context.Process, "start", side_effect=OSError("induced"))
            try:
                with refuse:
                    context.Pool(3)
            except OSError as error:
                self.assertEqual(str(error), "induced")
            else:
                self.fail("no error")
            self.assertEqual(multiprocessing.active_children(), [])


if __name__ == "__main__":
    unittest.main()
