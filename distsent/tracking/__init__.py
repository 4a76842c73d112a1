"""What listens to a run: metrics.jsonl, TensorBoard, and trackers such as MLflow."""
