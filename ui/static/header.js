// A session that has ended: the next request brings the login page, instead of a page that no longer works.
const fetchOriginal = window.fetch;
window.fetch = async (...request) => {
  const response = await fetchOriginal(...request);
  if (response.status === 401) location.reload();
  return response;
};

export {};
