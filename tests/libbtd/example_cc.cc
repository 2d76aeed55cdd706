#include <bartender.h>

int main() {
  struct btd_config btd_config;
  btd_config.single_node = 1;
  struct btd_cluster* p_cluster = btd_cluster_create(&btd_config);
  const char* s = "123";
  char* p_data = (char*)btd_malloc(p_cluster, 100);
  btd_memcpy(p_data, s, strlen(s));
  btd_free(p_data);
}
