"""Pages that show a run or a comparison: self-contained HTML, drawn by plotly."""
