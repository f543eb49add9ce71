"""The measurements that the documentation quotes: `python -m benchmarks.NAME`, one for each file with a `main`."""
