"""`python -m cifar_trainer`, the same as `cifar-trainer`."""

from cifar_trainer.cli import main

if __name__ == "__main__":
    main(prog_name="cifar-trainer")
