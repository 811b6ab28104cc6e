"""``python -m search_service.cli``: the same as ``lambda-search``."""

from search_service.cli.app import main

if __name__ == "__main__":
    main()
