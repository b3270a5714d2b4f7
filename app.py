"""AnomalyHub's app; also the entry point of a Hugging Face Space."""

from anomalyhub.ui import build_app, launch

demo = build_app()

if __name__ == "__main__":
    launch(demo)
